"""The three LightningModules: IQL selector, supervised expression policy, Judge Policy Optimization."""
