"""Train the two perceivers from a GoEmotions folder and write them as assets.

python scripts/train_perceivers.py path/to/goemotions [out_folder]
"""

import sys
from dataclasses import replace
from pathlib import Path

from emodistill.emotions.perceiver_training import HALVES, dev_scores, read_goemotions, train
from emodistill.errors import UserError

ASSETS = Path(__file__).resolve().parents[1] / "src" / "emodistill" / "assets" / "perceivers"


def main(folder: Path, out: Path) -> None:
    comments, unseen = read_goemotions(folder / "train.tsv"), read_goemotions(folder / "dev.tsv")
    out.mkdir(parents=True, exist_ok=True)
    for name in HALVES:
        perceiver = train(name, comments)
        scores = dev_scores(perceiver, unseen)
        perceiver = replace(perceiver, measured={**perceiver.measured, "dev": scores})
        perceiver.save(out / f"{name}.npz")
        size = (out / f"{name}.npz").stat().st_size / 1024
        print(f"{name}: {len(perceiver.terms)} {perceiver.features} features, {size:.0f} KiB, {scores}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(str(__doc__).strip())
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else ASSETS)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
