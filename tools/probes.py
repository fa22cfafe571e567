"""Write `probes.json` into the folder of an adapter that was trained before runs wrote one.

    python tools/probes.py ADAPTER [--device cpu]

What the adapter answers now, on this machine, is taken for what it answered at the end of training:
evaluate it first. The adapter that ships got its file this way, with `--device cpu`, from
`src/sentilora/assets/adapter`.
"""

import argparse
from pathlib import Path

from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.probes_file import ProbesFile
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.probes import save_probes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"])
    options = parser.parse_args()
    folder = AdapterFolder.open(options.adapter)
    if folder.classifier is None:
        parser.error(f"{folder.path} has no classifier.json, which says what its prompt is")
    save_probes(Classifier.load(folder, device=options.device, verify=False), folder.path)
    print(folder.path / ProbesFile.FILE)


if __name__ == "__main__":
    main()
