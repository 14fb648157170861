"""`phema reconstruct` for averages of any kind, and for several in one network."""

from __future__ import annotations

from pathlib import Path

from phema.client.client import Client
from phema.shared import catalog
from phema.shared.snapshots.profile import Profile
from tests.api import seed
from tests.phema.service import Service
from tests.phema.test_cli import Cli, document


def test_reconstruct_averages_of_any_kind(service: Service, client: Client, cli: Cli, trained: catalog.Run) -> None:
    run, plan = trained.name, ("--plan", "--json")
    asked = {"--gamma": "6,7,...,9", "--half-life": "5e3", "--window": "3200,6400"}
    labels = {
        option: [output["label"] for output in document(cli("reconstruct", run, option, value, *plan))["outputs"]]
        for option, value in asked.items()
    }
    assert len(labels.pop("--gamma")) == 4
    assert labels == {"--half-life": ["ema"], "--window": ["mean-3200", "mean-6400"]}
    decays = document(cli("reconstruct", run, "--lr-decay", "cosine:6400,1-sqrt:3200", *plan))["outputs"]
    assert [output["label"] for output in decays] == ["decay-cosine-6400", "decay-1-sqrt-3200"]
    (mean,) = document(cli("reconstruct", run, "--last-times", "4", *plan))["outputs"]
    assert (mean["label"], len(mean["profile"]["times"])) == ("mean-of-4-times", 4)
    for wrong in ("cosine", "step:100", "linear:"):
        code, _, err = cli("reconstruct", run, "--lr-decay", wrong)
        assert code == 2
        assert f"--lr-decay '{wrong}' must look like SHAPE:IMAGES" in err
    code, out, err = cli("reconstruct", run, "--sigma-rel", "0.05,0.2", "--plan")
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ["LEARNING_RATE", "AT", "12,800", "AT", "19,200", "AT", "23,040", "AT", "24,320"],
        ["0.05", "1.000", "0.994", "0.849", "0.602"],
        ["0.2", "0.859", "0.556", "0.258", "0.135"],
    ]
    Path("mine.json").write_text('[{"sigma_rel": 0.15}, {"kind": "exponential", "rampup_ratio": 0.05}]')
    outputs = document(cli("reconstruct", run, "--profile", "mine.json", "--tolerance", "0.1", *plan))["outputs"]
    assert [output["profile"]["kind"] for output in outputs] == ["power", "power"]
    cli("reconstruct", run, "--half-life", "900,9000", "--no-wait")
    service.reconstruct()
    items = document(cli("reconstruct", run, "--half-life", "900,9000", "--output", "weights", "--json"))
    # Both are called ema: their files are not.
    assert [Path(item["file"]).name for item in items] == [
        f"{run}-25600-ema-{item['id']}.safetensors" for item in items
    ]
    code, out, err = cli("reconstruct", run, "--half-life", "9000")
    assert (code, out.splitlines()[1].split()[0]) == (0, "ema")
    assert "warning: ema is expected to miss its weights by" in err
    assert [line.split()[0] for line in cli("reconstructions", run)[1].splitlines()] == ["PROFILE", "ema", "ema"]
    evaluation = client.evaluate(items[0]["id"], wait=False, num_samples=8)
    assert cli("evaluations", run)[1].splitlines()[1].split()[0] == "ema"
    service.evaluate(1.0)
    (shown,) = document(cli("evaluate", items[0]["id"], "--num-samples", "8", "--output", "pictures", "--json"))
    assert Path(shown["file"]).name == f"samples-25600-ema-{evaluation.id}.png"


def test_reconstruct_with_tensors_of_their_own(service: Service, client: Client, cli: Cli, name: str) -> None:
    created = client.runs.create(name)
    with service.catalog.transaction() as tx:
        run = tx.runs.get(created.id)
    seed.weights(service.catalog, service.store, run, [Profile.power(sigma_rel) for sigma_rel in (0.05, 0.10)])
    tensors = ("--tensor", "dec.emb.*=raw", "--tensor", "dec.*=0.2")
    code, out, err = cli("reconstruct", name, "--sigma-rel", "0.13", *tensors, "--plan")
    assert code == 0, err
    shown = [line.split("  ")[0].strip() for line in out.splitlines()]
    assert shown[-6:-2] == ["PROFILE", "0.13-per-tensor", "dec.emb.*: raw", "dec.*: 0.2"]
    assert shown[-2:] == ["LEARNING_RATE", "0.13-per-tensor"]
    code, _, err = cli("reconstruct", name, "--sigma-rel", "0.13", "--tensor", "dce.conv.weight=0.2", "--plan")
    assert code == 2
    assert "matches none of the run's 3 averaged tensors, such as dec.conv.weight" in err
