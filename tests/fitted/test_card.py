"""Model cards: complete, valid, and figures from files alone."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.fitted.card import NOT_STATED, CardText, rendered
from studies.results import Results

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "model_cards" / "cellmnn-base.md"
BUNDLED = ROOT / "cellmnn_fm" / "model" / "pretrained" / "cellmnn-base"
TEXT = CardText(*[field.name for field in fields(CardText)])
DATA = ModelCardData(license="mit", library_name="cellmnn_fm", tags=["a"])


@pytest.fixture(scope="module")
def write_card():
    from studies import write_card

    return write_card


def test_the_card_of_the_base_is_what_the_command_writes(write_card):
    written = write_card.card(BUNDLED, ROOT / "results")
    assert COMMITTED.read_text() == written
    assert (BUNDLED / "README.md").read_text() == written
    name = write_card.SIMULATED
    simulated = BUNDLED.with_name(name)
    written = write_card.card_of_simulated(simulated, ROOT / "results")
    assert (simulated / "README.md").read_text() == written
    assert COMMITTED.with_name(f"{name}.md").read_text() == written


def test_its_metadata_are_valid_and_its_figures_those_of_the_files():
    card = ModelCard(COMMITTED.read_text())
    data = card.data
    assert (data.license, data.library_name) == ("apache-2.0", "cellmnn_fm")
    assert len(data.datasets) == 29
    found = {one.dataset_name: one.metric_value for one in data.eval_results}
    assert len(found) == 36
    for outcome in Results("leave_group_out_aligned").read().values():
        for name, one in outcome.items():
            if "skipped" in one:  # no time between two others
                assert name not in found
                continue
            ratio = one["summary"]["zero_shot"]["ratio_to_ot_interpolate"]
            assert found[name] == pytest.approx(ratio, abs=5e-4)
            assert f"| {name} | {one['summary']['ot_interpolate']['w1_mean']:.3f} |" in card.content
    for heading in ("Intended use", "Limits", "Training data", "Training", "How to reproduce"):
        assert f"\n## {heading}\n\n" in card.content
    assert "edges are not causes" in card.content
    assert "GSE75748" in card.content
    assert "| GPL-3 |" in card.content
    assert "Hardware: 1 process(es), device cpu" in card.content


@pytest.mark.parametrize("part", [field.name for field in fields(CardText)])
def test_an_empty_part_is_an_error(part):
    with pytest.raises(InputError, match=f"model card: expected all of its parts, found no {part}"):
        replace(TEXT, **{part: " "})
    assert part in rendered(TEXT, DATA).content


@pytest.mark.parametrize("name", ["license", "library_name", "tags"])
def test_missing_metadata_are_an_error(name):
    options = {"license": "mit", "library_name": "x", "tags": ["a"], name: None}
    with pytest.raises(InputError, match=f"model card: expected all metadata, found no {name}"):
        rendered(TEXT, ModelCardData(**options))


def test_results_that_are_missing_are_an_error(write_card, tmp_path):
    with pytest.raises(ValueError, match="results: expected every data set of cellmnn-base"):
        write_card.card(BUNDLED, tmp_path)


def test_a_fit_says_what_it_knows(adata, tmp_path):
    adata.uns |= {"name": "mine", "publication": "Someone 2026 (GSE1)"}
    CellMNNPipeline().fit(adata, time_key="day", steps=3).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert f"| mine | 90 | 3 | Someone 2026 (GSE1) | {NOT_STATED} |" in card.content
    assert "OT-Interpolate: the snapshots at 1, left out" in card.content
    assert "cellmnn fit FILE.h5ad --time-key day" in card.content
    assert card.data.base_model is None
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    base.finetune(adata, time_key="day", steps=1, verdict=False).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "cellmnn-base"
    assert "Not measured" in card.content


def test_a_card_goes_on_with_its_model(tmp_path):
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    base.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == COMMITTED.read_text()
