"""Every command of README, CONTRIBUTING and docs/, typed as it stands there, on the records of a finished experiment.

Those of Snakemake are in test_readme.py, as dry runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.claims import __main__ as claims
from harness.cli import RESULTS, Config
from harness.figures import catalogue
from harness.report.page import render_page
from harness.report.sources import open_source
from tests import preloaded, readme
from tests.harness.compare.conftest import DATE, sample
from tests.harness.figures import fake_figures
from tests.harness.report import fake_report
from tests.paths import ROOT

#: What a reader puts in the place of a word -> what stands there here.
FOR = {
    "RUN_DIR": "results/small/math/smollm2-135m/lora/seed0",
    "A B": "results/tiny/math/llama-tiny/beamlora/seed0 results/tiny/math/llama-tiny/lora/seed0",
}
LORA = "math/llama-tiny/lora/seed0"
#: Command -> what it says.
SAYS = {
    "beamlora --help": r"usage: beamlora .*\btrace\b",
    "beamlora doctor": r"^ok +checkout +\S+\n(.*\n)*ready$",
    "beamlora figure": r"^rank_importance +Fig\. 1, 2 ",
    "beamlora check": r"report\.html: \d{3,} printed numbers, \d+ cells and \d+ runs recomputed: as in the records",
    "beamlora trace table1 llama2-7b BeamLoRA gsm8k": r"^recomputed +the predictions, read anew, give the same numbers$",
    "beamlora trace table1 smollm2-135m BeamLoRA gsm8k --experiment evidence": (
        r"^recomputed +the predictions, read anew, give the same numbers$"
    ),
    "beamlora table table1 --experiment evidence": r"^results/evidence/tables/table1\.md$",
    "beamlora table table3 --experiment evidence --allow-missing": r"^results/evidence/tables/table3\.md$",
    "beamlora table learning_rate --experiment evidence": r"^results/evidence/tables/learning_rate\.md$",
    "beamlora table table1 --rates tuned": r"^results/tiny/tables/table1_tuned\.md$",
    "beamlora compare A B": (
        r"^A − B, 1 seed; per cent and points.*\n(.*\n)*gsm8k, accuracy .*, 40 items\n  A [\d.]+, B [\d.]+, A − B "
    ),
    "beamlora compare lora8/seed* --against lora4/seed* --metric exact_match,strict-match --margin 0.01": (
        r"^A − B, 5 seeds, paired by seed; per cent and points; \[\.\.\] is a 95 % interval\n"
        r"  lora8/seed0 − lora4/seed0\n(.*\n)*gsm8k, exact_match,strict-match, 300 items\n"
    ),
    "beamlora plan": r"^reproduce_all of tiny: invented numbers$",
    "beamlora plan --experiment paper": r"^The paper's Table 4: 18 of 18 settings agree\.$",
    "beamlora plan reproduce_table1 --experiment paper": r"^The paper's Table 4: 12 of 12 settings agree\.$",
    "python -m harness.data check": r"^math: 100 training rows; 0 repeat an earlier row, 0 an earlier query$",
    "python -m harness.answers.audit RUN_DIR": r"gsm8k  n = 100\n  accuracy: sound 4\.0 % \(headline\)",
    "python -m harness.export.lm_eval RUN_DIR": r"seed0/lm_eval/",
    "python -m harness.export.every_eval_ever RUN_DIR": r"seed0/every_eval_ever/data/beamlora-harness/",
    "python -m harness.export.every_eval_ever results/small/math/smollm2-135m/*/seed*": (
        r"smollm2-135m/beamlora/seed0/every_eval_ever/(.*\n)+.*smollm2-135m/lora/seed0/every_eval_ever/"
    ),
    "python -m evaluation.grade --task gsm8k < cases.jsonl": r'^\{"id": "a", "correct": true, "extracted": "7"\}$',
    "python -m evaluation.sandbox FILE.py --tests TESTS.json": r'^\{"outcome": "passed", ',
}
#: Command -> why it is not run here.
ELSEWHERE = {
    "beamlora plan reproduce_table1 --memory --experiment paper": "predicts for a minute: tests/harness/plan",
    "beamlora fetch --experiment small": "from a hub: tests/harness/fetch",
    "beamlora fetch --experiment paper": "from a hub: tests/harness/fetch",
    "python -m harness.answers.regrade RUN_DIR": "with the sets of the hub: tests/harness/answers/test_regrade.py",
    **{readme.draws(picture): "tests/test_readme.py" for _, picture in readme.PICTURES},
    "python -m benchmarks.gpu7b --output gpu7b.json": "on a GPU; its --smoke in tests/benchmarks/test_gpu7b.py",
    "python -m harness.figures time_memory --gpu7b gpu7b.json": "of the record of a GPU: tests/benchmarks/test_gpu7b.py",
    "python -m harness.evaluate.lm_eval_check --run RUN_DIR": "with a model: tests/harness/evaluate/test_lm_eval_check.py",
    "python -m harness.export.model_card RUN_DIR": "of an adapter: tests/harness/export/test_model_card.py",
    "python -m harness.tables": "the name of a module: tests/harness/command/test_command.py",
    "python -m harness.train --configfile config/paper.yaml --run math/llama2-7b/dora/seed0 --run-dir DIR": "on a GPU",
    "python -m harness.data check --configfile config/demo.yaml my.yaml": "data of one's own: tests/workflow/test_own_data.py",
}


def named() -> set[str]:
    """The commands of this project that the pages name, in one form each."""
    text = re.sub(r"^```.*?^```$", "", readme.TEXT, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"`([^`\n]+)`", text) + readme.commands("bash") + readme.commands("console")
    return {" ".join(command.split()) for command in found if re.match(r"(beamlora|python -m) \S", command)}


def test_every_command_is_run_here_or_elsewhere() -> None:
    assert named() == SAYS.keys() | ELSEWHERE.keys()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this code in which `tiny` is a finished experiment of invented answers, and the others as committed."""
    root = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in ("config", "results", "figures", ".git", ".snakemake"):
            (root / path.name).symlink_to(path)
    shutil.copytree(ROOT / "config", root / "config")
    for name in ("small", "evidence"):
        shutil.copytree(ROOT / "results" / name, root / "results" / name)
    made = fake_report.experiment(name="tiny", sweeps={"learning_rate": fake_figures.SWEEPS["learning_rate"]})
    file = root / "config/tiny.yaml"
    file.write_text(yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False))
    fake_report.fill(made, root / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        claims.main([])
        source = open_source(Config(), results=RESULTS)
        source.figures.mkdir(parents=True)
        for figure in catalogue.planned(made):
            (source.figures / f"{figure.name}.png").write_bytes(fake_report.picture())
        (source.folder / "report.html").write_text(render_page(source))
    rng = np.random.default_rng(0)
    for side, share in (("lora8", 0.6), ("lora4", 0.4)):
        for seed in range(5):
            rows = [sample(i, {"exact_match": float(rng.random() < share)}, filtered="strict-match") for i in range(300)]
            path = root / side / f"seed{seed}/samples_gsm8k_{DATE}.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "cases.jsonl").write_text(json.dumps({"id": "a", "gold": "7", "completion": "The answer is: 7"}) + "\n")
    (root / "FILE.py").write_text("def double(x):\n    return 2 * x\n")
    (root / "TESTS.json").write_text(json.dumps({"entry_point": "double", "inputs": [[2], [3]], "expected": [4, 6]}))
    return root


@pytest.mark.parametrize("command", SAYS)
def test_a_command_says_what_the_page_promises(command: str, checkout: Path) -> None:
    typed = command
    for word, here in FOR.items():
        typed = typed.replace(word, here)
    shell = 'beamlora() { "$PYTHON" -m harness.command "$@"; }; python() { "$PYTHON" "$@"; }; '
    environment = {**os.environ, "PYTHON": preloaded.python(), "PYTHONPATH": str(checkout)}
    done = subprocess.run(["bash", "-c", shell + typed], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS[command], done.stdout, flags=re.MULTILINE | (re.DOTALL if "--help" in command else 0)), done.stdout
