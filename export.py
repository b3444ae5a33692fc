"""Take a trained agent elsewhere: `python export.py run=demo to=peft folder=exported [key=value ...]`.

`to=peft` writes adapter and selector, `to=merged` a model for plain transformers, `to=ollama` one for Ollama and
llama.cpp, `to=hub` uploads one of them. What was written is loaded anew and compared with the run before it gets its
name. See `configs/export.yaml` for every key, and docs/export.md for what is in each folder.
"""

import tempfile
from pathlib import Path

import hydra
from omegaconf import DictConfig

from commands import entry


def export(cfg: DictConfig) -> None:
    """Write, check and publish what `cfg` describes."""
    from emodistill.errors import UserError
    from emodistill.export import check_repo, publish

    if cfg.what not in ("agent", "corpus"):
        raise UserError(f"what={cfg.what}: choose agent or corpus")
    to_hub = cfg.to == "hub"
    if to_hub:
        check_repo(cfg.repo)
    if not (cfg.folder or to_hub or cfg.dry_run):
        raise UserError("folder= says where it is written; give the name of a new folder")
    entry.use_threads(cfg)
    given = Path(str(cfg.folder)).expanduser() if cfg.folder else None  # Hydra reads 2026 as a number
    with tempfile.TemporaryDirectory(prefix="export-") as scratch:
        name = given.name if given else f"{cfg.run}-{cfg.to if cfg.what == 'agent' else 'corpus'}"
        folder = given if given and not cfg.dry_run else Path(scratch) / name
        if given and given.exists():
            raise UserError(f"folder={cfg.folder} exists; give another name, or delete it first")
        write(cfg, folder)
        show(folder, with_card=cfg.dry_run)
        if cfg.dry_run:
            print("dry_run=true: nothing was kept" + (", nothing uploaded" if to_hub else ""))
        elif to_hub:
            print(publish(folder, cfg.repo, cfg.private, cfg.what == "corpus"))
        else:
            print(folder)


def write(cfg: DictConfig, folder: Path) -> None:
    """Write and check one export."""
    from emodistill.export import TrainedAgent, Wanted, write_corpus, write_export

    run, to_hub = Path(cfg.run_dir).expanduser(), cfg.to == "hub"
    if cfg.what == "corpus":
        print(f"{write_corpus(run, folder, print):,} episodes, equal to the run's")
        return
    form = cfg.form if to_hub else cfg.to
    wanted = Wanted(form, cfg.base, cfg.dtype, cfg.repo if to_hub else None, cfg.dataset)
    print(write_export(TrainedAgent.of(run, cfg.arm, cfg.licence), folder, wanted, print))


def show(folder: Path, with_card: bool) -> None:
    """Every file with its size, and the card."""
    from emodistill.export import listing

    files = listing(folder)
    for name, size in files:
        print(f"{size:>13,}  {name}")
    print(f"{sum(size for _, size in files):>13,}  bytes in {len(files)} files")
    if with_card:
        print("\n" + (folder / "README.md").read_text(encoding="utf-8"))


@hydra.main(config_path="configs", config_name="export", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained():
        export(cfg)


if __name__ == "__main__":
    entry.run(main, "export", __doc__ or "")
