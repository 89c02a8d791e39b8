import json
import subprocess
import sys
import threading

import pytest
import torch

from fastadv.evaluation.study import Part, Study, StudyError

SETTINGS = {"eps": 0.1, "blocks": (1, 2)}


def silent(cost):
    pass


def part(name, calls, *, spec="", cost=1.0, value=1, **fields):
    def compute(on_step):
        calls.append(name)
        return {"value": value}

    return Part(name, spec, cost, compute, **fields)


def test_what_is_done_is_not_computed_again_by_a_later_run(tmp_path):
    calls = []
    Study(tmp_path, SETTINGS, {"date": "then"}).run([part("a", calls)], workers=1, on_progress=silent)
    study = Study(tmp_path, SETTINGS, {"date": "now"})
    parts = [part("a", calls), part("b", calls, value=2)]
    assert [p.name for p in study.missing(parts)] == ["b"]
    study.run(parts, workers=2, on_progress=silent)
    assert calls == ["a", "b"]
    assert (study["a"], study["b"]) == ({"value": 1}, {"value": 2})
    assert study.about == {"date": "then"}
    with pytest.raises(KeyError):
        study["c"]


def test_a_part_is_computed_anew_where_its_spec_has_changed_or_its_file_is_gone(tmp_path):
    calls, file = [], tmp_path / "weights"
    study = Study(tmp_path, SETTINGS, {})
    study.run([part("a", calls, spec="FGSM")], workers=1, on_progress=silent)
    assert study.missing([part("a", calls, spec="FGSM")]) == []
    assert study.missing([part("a", calls, spec="PGD")])
    assert study.missing([part("a", calls, spec="FGSM", file=file)])
    file.touch()
    assert study.missing([part("a", calls, spec="FGSM", file=file)]) == []


def test_another_study_s_folder_is_refused_in_one_line_that_says_what_differs(tmp_path):
    Study(tmp_path, SETTINGS, {})
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(StudyError, match=r"eps is 0.2 here and 0.1 there: give a new folder$"):
        Study(tmp_path, {**SETTINGS, "eps": 0.2}, {})
    with pytest.raises(StudyError, match="of another study: seeds is 3 here and None there"):
        Study(tmp_path, {**SETTINGS, "seeds": 3}, {})
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"no JSON", b"\xff"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_was(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(StudyError, match="is not the file of a study: give a new folder"):
        Study(tmp_path, SETTINGS, {})
    assert (tmp_path / "results.json").read_bytes() == content
    (tmp_path / "results.json").rename(tmp_path / "mine.txt")
    with pytest.raises(StudyError, match=r"holds files, and not the results\.json of a study"):
        Study(tmp_path, SETTINGS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_costliest_part_comes_first(tmp_path):
    calls = []
    parts = [part(name, calls, cost=cost) for name, cost in (("a", 1), ("b", 3), ("c", 2))]
    Study(tmp_path, SETTINGS, {}).run(parts, workers=1, on_progress=silent)
    assert calls == ["b", "c", "a"]


def test_parts_run_side_by_side_each_with_one_thread_of_its_own(tmp_path):
    meet, threads = threading.Barrier(2, timeout=30), []

    def compute(on_step):
        meet.wait()  # passes only if the other one runs at the same time
        threads.append(torch.get_num_threads())
        return {}

    before = torch.get_num_threads()
    parts = [Part(name, "", 1, compute) for name in "ab"]
    Study(tmp_path, SETTINGS, {}).run(parts, workers=2, on_progress=silent)
    assert threads == [1, 1]
    assert torch.get_num_threads() == before


def test_progress_adds_up_to_the_cost_of_what_was_missing(tmp_path):
    def compute(on_step):
        for step in range(3):
            on_step(step + 1, 4)
        return {}

    progress = []
    study = Study(tmp_path, SETTINGS, {})
    study.run([part("a", [], cost=5)], workers=1, on_progress=silent)
    study.run([part("a", [], cost=5), Part("b", "", 8, compute)], workers=1, on_progress=progress.append)
    assert progress == [2, 2, 2, 2]


def test_an_error_in_one_part_ends_the_others_and_keeps_what_is_finished(tmp_path):
    started, given_up = threading.Event(), threading.Event()

    def endless(on_step):
        started.set()
        try:
            while True:
                on_step(0, 1)
        finally:
            given_up.set()

    def fail(on_step):
        started.wait(30)
        raise ValueError("no such net")

    study = Study(tmp_path, SETTINGS, {})
    study.run([part("a", [])], workers=1, on_progress=silent)
    never = []
    parts = [Part("endless", "", 9, endless), Part("fail", "", 8, fail), part("later", never)]
    with pytest.raises(ValueError, match="no such net"):
        study.run(parts, workers=2, on_progress=silent)
    assert given_up.is_set()
    assert not never
    assert Study(tmp_path, SETTINGS, {}).parts.keys() == {"a"}


KILLED = """
import os, sys
from pathlib import Path
from fastadv.evaluation.study import Part, Study

def compute(on_step):
    if len(study.parts) == 3:
        os.kill(os.getpid(), 9)
    return {"done": len(study.parts)}

study = Study(Path(sys.argv[1]), {}, {})
study.run([Part(f"{n}", "", 1, compute) for n in range(9)], workers=1, on_progress=lambda cost: None)
"""


def test_a_kill_leaves_a_whole_file_with_all_parts_that_were_done(tmp_path):
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert run.returncode == -9
    content = json.loads((tmp_path / "results.json").read_text())
    assert [entry["result"]["done"] for entry in content["parts"].values()] == [0, 1, 2]
    assert Study(tmp_path, {}, {}).parts == content["parts"]
