"""The command: the whole way in a few lines, help with examples, and one-line errors that name the mend."""

import json
import shutil
import sys

import pytest

from tests.conftest import write_raw
from uacs import cli
from uacs.errors import WrongUse


@pytest.mark.usefixtures("ray_cluster")
def test_three_commands_lead_from_a_csv_to_a_run(uacs, encoder, recorded, tmp_path):
    labels = write_raw(tmp_path / "raw", {"train": 60, "valid": 30, "test": 40})
    data, ubm, out = tmp_path / "data", tmp_path / "ubm", tmp_path / "run"
    code, said, _ = uacs("prepare", labels, data, "--dataset", "mosei", "--audio", labels.parent / "audio.npz")
    assert (code, said) == (0, f"{data}: mosei, test 40, train 60, valid 30\n")

    small = ["--set", "max_epochs=2", "--set", "threads=1", "--set", "accumulate=1"]
    code, said, _ = uacs("train", "ubm", data, "--out", ubm, "--text-encoder", encoder, *small)
    assert code == 0
    assert said.count("epoch ") == 3 and "is kept" in said

    spare = ["--set", "resources.pool=1", "--set", "resources.parts_in_flight=1"]
    code, said, err = uacs("evaluate", data, "--ubm", ubm, "--mllm", f"recorded:{recorded}", "--out", out, *spare)
    assert code == 0, err
    summary = json.loads((out / "metrics.json").read_text())
    assert summary["n"] == 40
    assert f"{100 * summary['metrics']['uacs']['acc2']:.1f}" in said
    assert (out / "calibration" / "thresholds.json").exists()

    before = (out / "report.html").read_text()
    code, said, _ = uacs("report", out)
    assert code == 0 and "U-ACS" in said
    assert (out / "report.html").read_text() == before


def test_an_ensemble_is_trained_by_one_option(uacs, dataset, encoder, tmp_path):
    small = [word for setting in ("max_epochs=1", "members=2", "threads=1") for word in ("--set", setting)]
    words = ["train", "ubm", dataset.folder, "--text-encoder", encoder, "--estimator", "ev", *small]
    code, said, err = uacs(*words, "--out", tmp_path / "ubm")
    assert code == 0, err
    assert "1 of 2 of the ensemble\n" in said and "2 of 2 of the ensemble\n" in said
    assert sorted(path.name for path in (tmp_path / "ubm" / "members").iterdir()) == ["1", "2"]
    code, _, err = uacs(*words, "--out", tmp_path / "ubm")
    assert code == 1 and "a trained model lies there" in err


@pytest.mark.parametrize("words", [(), ("--help",), ("evaluate", "--help"), ("train", "ubm", "--help")])
def test_help_is_there(uacs, words):
    code, out, err = uacs(*words)
    assert "Usage: uacs" in out + err
    assert code == 0 or not words


EXAMPLES = ["demo", "prepare", "train ubm", "calibrate", "evaluate", "report", "replay", "compare", "doctor", "plan"]


@pytest.mark.parametrize("command", EXAMPLES)
def test_every_command_shows_an_example(uacs, command):
    _, out, _ = uacs(*command.split(), "--help")
    assert f"Example: uacs {command}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("evaluate {data}", 2, "Missing option '--ubm'"),
        ("train ubm {data} --out {out} --preset mos", 2, "no preset 'mos'; there is mosi, mosei, sims"),
        ("train ubm {data} --out {out} --set lr=1", 2, "expected key=value with one of"),
        ("train ubm {data} --out {out} --text-encoder {empty}", 1, "no text encoder there"),
        ("train ubm {data} --out {out} --estimator variance", 2, "'variance' is not one of 'cbe', 'ptd', 'ev'"),
        ("train ubm {data} --out {out} --estimator ev --folds 3", 2, "a fold's UBM has no ensemble"),
        ("train ubm {data} --out {out} --set estimator=variance", 2, "no estimator 'variance'; there is cbe, ptd, ev"),
        ("calibrate {data} --ubm {ubm} --mllm {mllm} --out {out} --set estimator=u", 2, "no estimator 'u'; there is"),
        ("train ubm {empty} --out {out}", 1, "neither dataset.json (a prepared dataset) nor label.csv"),
        ("train ubm {data} --out {ubm} --text-encoder {empty}", 1, "a trained model lies there"),
        ("prepare {nowhere} {out}", 1, "nothing there; name a prepared dataset, a label.csv or its folder"),
        ("prepare {table} {out}", 2, "which dataset is it? Prepare it with --dataset mosi, mosei, sims, simsv2"),
        ("prepare {table} {out} --dataset mine", 2, "--dataset mine: a name of your own needs --like"),
        ("prepare {table} {out} --dataset mine --like mine", 2, "no dataset 'mine'; there is mosi"),
        ("prepare {table} {out} --dataset mosi --column text", 2, "--column text: expected NAME=THEIRS"),
        ("prepare {pickle} {out} --dataset mosi", 1, "wants to call os.system"),
        ("prepare file://{pickle} {out} --dataset mosi", 1, "a pickle is read from a disk"),
        ("prepare {data} {data}", 1, "a prepared dataset lies there"),
        ("calibrate {data} --ubm {empty} --mllm {mllm} --out {out}", 1, "no config.json, so no UBM"),
        ("calibrate {data} --ubm {ubm} --mllm {empty} --out {out}", 1, "no config.json, so no model"),
        ("calibrate {data} --ubm {ubm} --mllm recorded:no.parquet --out {out}", 1, "no.parquet: no such file"),
        (
            "calibrate {data} --ubm {ubm} --mllm {mllm} --out {out} --split dev",
            1,
            "split 'dev' is empty; there is test",
        ),
        ("calibrate {data} --ubm {ubm} --mllm {mllm} --out {out} --lambda 2", 2, "'--lambda': 2.0 is not in the range"),
        ("evaluate {data} --ubm {ubm} --mllm {mllm} --out {out} --thresholds no.json", 1, "no.json: no thresholds"),
        (
            "evaluate {data} --ubm {ubm} --mllm {mllm} --out {out} --set pool=4",
            2,
            "there is resources.pool, resources.pool_gpus",
        ),
        ("evaluate {data} --ubm {ubm} --mllm {mllm} --out {out} --set batch_size", 2, "expected key=value"),
        ("evaluate {data} --ubm {ubm} --mllm {mllm} --out {out} --config no.yaml", 1, "no.yaml: cannot be read"),
        ("evaluate {data} --ubm {ubm} --mllm {mllm} --out {data}/dataset.json", 1, "a file lies there; name a folder"),
        ("report {empty}", 1, "no manifest.json there, so no run"),
        ("replay {empty} --lambda 0.1", 1, "no manifest.json there, so no run"),
        ("replay {empty} --thresholds x --lambda 0.1", 2, "--thresholds brings its own λ and β"),
        ("compare {empty} {empty}", 1, "no manifest.json there, so no run"),
        ("replay {empty} --beta nan", 2, "nan is not a number to reckon with"),
        ("evaluate {data} --ubm {ubm} --mllm answers.parquet --out {out}", 1, "say recorded:answers.parquet"),
        ("evaluate {data} --ubm {ubm} --mllm recorded:{table} --out {out}", 1, "table.csv: not a Parquet file"),
        ("prepare {table} {table} --dataset mosi", 1, "table.csv: a file lies there; name a new folder"),
        ("compare {empty}", 2, "Missing argument 'SECOND'"),
        ("fly", 2, "No such command 'fly'"),
    ],
)
def test_wrong_input_is_one_line_that_names_the_mend(uacs, dataset, ubm, recorded, tmp_path, words, code, said):
    (tmp_path / "empty").mkdir()
    places = dict(data=dataset.folder, ubm=ubm, mllm=f"recorded:{recorded}", out=tmp_path / "out")
    places |= dict(empty=tmp_path / "empty", nowhere=tmp_path / "nowhere.csv")
    places |= dict(table=tmp_path / "table.csv", pickle=tmp_path / "hostile.pkl")
    places["table"].write_text("id,text\na,fine\n")
    places["pickle"].write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    found, out, err = uacs(*words.format(**places).split())
    assert (found, out) == (code, "")
    assert said in err
    assert err.startswith("uacs") and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("place", [1, 2, 3])
def test_debug_anywhere_shows_where(monkeypatch, tmp_path, place):
    words = ["uacs", "report", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*words[:place], "--debug", *words[place:]])
    with pytest.raises(Exception, match="no manifest.json"):
        cli.main()


def test_a_damaged_ubm_inside_ray_is_still_one_line(uacs, dataset, ubm, recorded, tmp_path, ray_cluster):
    copy = shutil.copytree(ubm, tmp_path / "ubm")
    (copy / "model.safetensors").write_bytes(b"no weights")
    code, _, err = uacs(
        "calibrate", dataset.folder, "--ubm", copy, "--mllm", f"recorded:{recorded}", "--out", tmp_path / "r"
    )
    assert code == 1
    assert f"{copy}: not a whole UBM" in err and "Traceback" not in err


def test_without_a_command_the_help_is_shown_once(uacs):
    code, out, err = uacs()
    assert (code, err) == (2, "")
    assert out.count("Usage: uacs") == 1


@pytest.mark.parametrize(("command", "resumed"), [("prepare a b", False), ("compare a b", False), ("demo", True)])
def test_an_interrupted_command_promises_no_more_than_it_keeps(uacs, monkeypatch, command, resumed):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.commands, "main", interrupted)
    code, _, err = uacs(*command.split())
    assert code == 130
    assert ("takes it up where it stopped" in err) == resumed and "interrupted" in err


def test_options_of_their_own_go_over_set_which_goes_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("mllm: {readout: trie, hints: both, batch_size: 3}\nmax_errors: 5\n")
    none = dict(max_errors=None, log_json=None, readout=None, hints=None, verify_prefill=None)
    first = cli._settings(("m", None), file, ("mllm.batch_size=4",), **none)
    assert (first.mllm.readout, first.mllm.hints, first.mllm.batch_size, first.max_errors) == ("trie", "both", 4, "5")
    told = none | dict(readout="head", hints="words", verify_prefill=True)
    second = cli._settings(("m", None), file, ("mllm.readout=decode",), **told)
    assert (second.mllm.readout, second.mllm.hints, second.mllm.verify_prefill) == ("head", "words", True)


def test_an_option_that_recorded_answers_cannot_follow_is_refused(uacs, dataset, ubm, recorded, tmp_path):
    words = [dataset.folder, "--ubm", ubm, "--mllm", f"recorded:{recorded}", "--out", tmp_path / "run"]
    code, _, err = uacs("evaluate", *words, "--no-verify-prefill")
    assert code == 2 and "--verify-prefill: recorded answers are as they were taken; leave it away" in err
    for told in (("trie", None, None), (None, "both", None), (None, None, True)):
        with pytest.raises(WrongUse, match="recorded answers are as they were taken"):
            cli._settings(("recorded:x", None), None, (), None, None, *told)
    assert cli._settings(("recorded:x", "m"), None, (), None, None, "trie", None, None).mllm.readout == "trie"
    code, _, err = uacs("evaluate", *words, "--adapter", tmp_path)
    assert code == 2 and "--adapter: recorded answers are as they were taken; leave it away" in err
