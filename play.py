"""Build a corpus and stop: `python play.py data=selfplay [shard=i/n] [key=value ...]`.

Training builds the corpus that it needs by itself. This does it beforehand: on another machine, or in shares. Running
the same command again continues; without `shard=` it plays what no share has played, and writes the corpus.
"""

import hydra
from omegaconf import DictConfig

from commands import entry


@hydra.main(config_path="configs", config_name="play", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained(), entry.paid(cfg):
        play(cfg)


def play(cfg: DictConfig) -> None:
    """Build what `cfg` describes and say where it is."""
    entry.check_files(cfg)
    from hydra.utils import instantiate

    entry.use_threads(cfg)
    print(instantiate(cfg.data.corpus, _convert_="all").build())


if __name__ == "__main__":
    entry.run(main, "play", __doc__ or "")
