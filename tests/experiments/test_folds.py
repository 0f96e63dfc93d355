"""Cross-validation: its experiments, and the join of their predictions."""

import json
import random
import re
import sys

import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.experiments.folds import join_folds, most_suspect, run_folds
from tests.support.small_repository import StagesRepository

# Fold k has every other image from k on; the archive of each fold is another one.
DOWNLOAD = """
from io import BytesIO
from pathlib import Path
from PIL import Image
from ruamel.yaml import YAML
from pipeline.common.raw_archive import write_raw_archive

def png(path):
    picture = BytesIO()
    Image.new("RGB", (8, 4), (10 * int(path[7:9]), 0, 0)).save(picture, "PNG")
    return picture.getvalue()

data = YAML(typ="safe").load(Path("params.yaml"))["data"]
entries = {}
for number in range(20):
    split = "test" if number > 15 else "valid" if number // 2 % data["folds"] == data["fold"] else "train"
    entries[f"{split}/{number % 2}_{number:02}.png"] = f"photos/{number:02}.png"
Path("data").mkdir(exist_ok=True)
write_raw_archive(Path("data/raw.zip"), ("NA", "b"), entries, png)
"""
EVALUATE = """
from pathlib import Path
from ruamel.yaml import YAML
from pipeline.common.raw_archive import read_raw_archive

params = YAML(typ="safe").load(Path("params.yaml"))
assert params["evaluate"]["split"] == "valid"
columns = "id,source,label,class,predicted,predicted_class,confidence,loss,p_NA,p_b"
index, rows = ["split,row,id,label,class,source,confidence"], [columns]
for image in read_raw_archive(Path("data/raw.zip"))[1]:
    number = int(image.id)
    index.append(f"{image.split},0,{number},{image.label},,{image.path},")
    if image.split == "valid":
        predicted = image.label if number % 8 else 1
        rows.append(f"0001,{image.path},{image.label},NA,{predicted},b,0.9,{0.5 + number / 10:.6f},1,0")
texts = {
    "data/dataset/index.csv": "\\n".join(index),
    "results/evaluation/predictions.csv": "\\n".join(rows),
    "results/metrics/evaluate.json": f'{{"accuracy": {0.7 + params["data"]["fold"] / 10}}}',
    "results/metrics/train.json": "{}",
}
for path, text in texts.items():
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
"""
WORKFLOW = """
stages:
  download:
    cmd: python pipeline/download/stage.py
    deps: [pipeline/common, pipeline/download]
    params: [data.folds, data.fold]
    outs: [data/raw.zip]
  augment: {cmd: echo, deps: [pipeline/common, pipeline/augment]}
  pretrained: {cmd: echo, deps: [pipeline/common, pipeline/pretrained]}
  train: {cmd: echo, deps: [pipeline/common, pipeline/train]}
  evaluate:
    cmd: python pipeline/evaluate/stage.py
    deps: [pipeline/common, pipeline/evaluate, data/raw.zip]
    params: [evaluate.split]
    outs: [results/evaluation, data/dataset]
    metrics:
      - results/metrics/evaluate.json: {cache: false}
      - results/metrics/train.json: {cache: false}
"""


class FoldsRepository(StagesRepository):
    """The repository with an archive that depends on the fold."""

    def write_files(self) -> None:
        super().write_files()
        self.write("dvc.yaml", WORKFLOW)
        self.write("pipeline/download/stage.py", DOWNLOAD)
        self.write("pipeline/evaluate/stage.py", EVALUATE)


def test_each_fold_is_an_experiment_and_all_images_are_predicted_once(tmp_path, monkeypatch, capsys):
    """With real DVC. The folds are not run again when the workspace has the archive of another fold."""
    repository = FoldsRepository(tmp_path / "repository")
    monkeypatch.chdir(repository.folder)
    run_folds(["data.folds=2"], None)
    first, output = capsys.readouterr().out, *repository.folder.glob(".sweeps/*.csv")
    assert len(repository.experiments()) == 2
    assert "fold 1: accuracy 0.8000" in first
    text = " ".join(first.split())
    assert "Accuracy 75.00% ± 7.07 points (mean and standard deviation of 2 folds)." in text
    assert "16 images: accuracy 0.8750" in text
    assert "; the 4 labelled images of the test split are in no fold." in text
    assert f"All of them are in .sweeps/{output.name}" in text
    table = pd.read_csv(output, dtype=str, na_filter=False)
    assert list(table["source"]) == [f"photos/{number:02}.png" for number in range(16)]
    assert list(table["fold"]) == [str(number // 2 % 2) for number in range(16)]
    # As they were written.
    assert dict(table.iloc[0]) == {
        **{"id": "0001", "source": "photos/00.png", "label": "0", "class": "NA", "predicted": "1"},
        **{"predicted_class": "b", "confidence": "0.9", "loss": "0.500000", "p_NA": "1", "p_b": "0", "fold": "0"},
    }
    assert accuracy_score(table["label"], table["predicted"]) == 0.875
    assert f"macro F1 {f1_score(table['label'], table['predicted'], average='macro'):.4f}" in text
    assert repository.git("status", "--porcelain") == ""
    page = output.with_suffix(".html").read_text("utf-8")
    assert f".sweeps/{output.stem}.html shows the images" in text
    # Those that are predicted as another class, of which the second is the surest.
    names = json.loads(re.search('id="images">(.*?)</script>', page)[1])["name"]
    assert names == ["photos/08.png", "photos/00.png"]

    repository.replace("params.yaml", "  fold: 0 ", "  fold: 1 ")
    repository.replace("params.yaml", "  folds: null ", "  folds: 2 ")
    repository.dvc("repro", "-q", "download")
    repository.commit("fold 1")
    run_folds([], tmp_path / "again.csv")
    assert capsys.readouterr().out.count("exists already") == 2
    assert (tmp_path / "again.csv").read_bytes() == output.read_bytes()
    assert len(repository.experiments()) == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "data.folds: got null, needs the number of folds; set it, such as -S data.folds=5"),
        (["-S", "data.folds=1"], "-S: data.folds: got 1, allowed is an integer (≥ 2) or null"),
        (["-S", "data.fold=1"], "-S: got 'data.fold=1'; folds runs every fold and evaluates its valid split"),
        (["-S", "evaluate.split=test"], "-S: got 'evaluate.split=test'; folds runs every fold"),
        (["-S", "data.folds=3", "--output", "x.txt"], "--output: got 'x.txt', allowed is the name of a file that ends"),
    ],
)
def test_what_the_command_cannot_run_is_one_line_before_any_work(fake_dvc, monkeypatch, capsys, arguments, line):
    monkeypatch.setattr(sys, "argv", ["pipeline", "folds", *arguments])
    with pytest.raises(SystemExit, match=r"^1$"):
        main()
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1
    assert fake_dvc.ran == []


def test_fewer_folds_than_that_of_params_yaml_are_possible(fake_dvc, repository):
    """Two folds, while params.yaml has the last of five."""
    repository.replace("params.yaml", "  folds: null ", "  folds: 5 ")
    repository.replace("params.yaml", "  fold: 0 ", "  fold: 4 ")
    fake_dvc.error = "stopped here"
    with pytest.raises(PipelineError, match=r"^fold 0: stopped here\nfold 1: stopped here$"):
        run_folds(["data.folds=2"], None)
    assert [name[:7] for name in fake_dvc.ran] == ["fold-0-", "fold-1-"]
    assert not (repository.folder / ".sweeps").exists()


# The join.


def folds(count=3, images=12):
    """The predictions and the index of each fold: image n is in fold n % count; two more are in the test split."""
    predictions, index = {}, {}
    for fold in range(count):
        sources = [f"photos/{number:02}.png" for number in range(images)]
        split = ["valid" if number % count == fold else "train" for number in range(images)]
        ids = [source.removeprefix("photos/") for source in sources]
        table = pd.DataFrame({"split": split, "id": ids, "label": "1", "source": sources})
        # The third has a pseudo-label that a correction confirmed.
        more = {"split": ["test", "test", "train"], "id": ["0", "1", "unlabelled/0"], "label": ["1", "", "1"]}
        index[fold] = pd.concat([table, pd.DataFrame(more | {"source": ["t/0.png", "t/1.png", "u/0.png"]})])
        valid = table[table["split"] == "valid"]
        predictions[fold] = pd.DataFrame({"id": "1", "source": valid["source"], "label": "1", "predicted": "0"})
    return predictions, index


def test_the_join_has_each_labelled_image_once_with_its_fold():
    predictions, index = folds()
    joined = join_folds(predictions, index)
    assert list(joined.columns) == ["id", "source", "label", "predicted", "fold"]
    assert list(joined["source"]) == [f"photos/{number:02}.png" for number in range(12)]
    assert list(joined["fold"]) == [number % 3 for number in range(12)]
    # Neither the order of the folds nor that of the rows matters.
    shuffled = {fold: table.sample(frac=1, random_state=0) for fold, table in random.sample([*predictions.items()], 3)}
    assert join_folds(shuffled, index).equals(joined)


def test_an_image_in_two_folds_is_refused():
    predictions, index = folds()
    predictions[2].loc[2, "source"] = "photos/04.png"
    with pytest.raises(
        PipelineError, match=r"^1 images .* such as photos/04.png in the folds 1, 2; the images changed"
    ):
        join_folds(predictions, index)


def test_an_image_that_is_twice_in_one_fold_is_refused():
    predictions, index = folds()
    predictions[0] = pd.concat([predictions[0], predictions[0].tail(1)])
    with pytest.raises(PipelineError, match=r"^1 images .* such as photos/09.png in the folds 0, 0;"):
        join_folds(predictions, index)


def test_images_in_no_fold_are_refused():
    predictions, index = folds()
    predictions[1] = predictions[1].iloc[2:]
    with pytest.raises(PipelineError, match=r"^2 of 12 images are predicted by no fold, such as photos/01.png; the im"):
        join_folds(predictions, index)


def test_folds_with_other_classes_are_refused():
    predictions, index = folds()
    predictions[1]["p_bird"] = "0.1"
    with pytest.raises(PipelineError, match=r"^fold 1 and fold 0 differ in the columns p_bird; the images changed"):
        join_folds(predictions, index)


def test_the_images_with_another_prediction_and_the_least_probable_label_are_the_most_suspect():
    columns = {"source": ["a", "b", "c", "d"], "label": ["0", "0", "1", "1"], "predicted": ["0", "1", "0", "1"]}
    table = pd.DataFrame({**columns, "confidence": "0.9", "loss": ["9.5", "2.25", "10.5", "0.5"]})
    assert list(most_suspect(table)["source"]) == ["c", "b", "a", "d"]
