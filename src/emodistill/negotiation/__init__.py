"""What a negotiation is: domains, scenarios, offers, the protocol, and the engine that plays it."""
