"""Guidance as a user asks for it: through the API's own process, done by a worker."""

from __future__ import annotations

from phema.client.client import Client
from phema.client.response_models import Evaluation
from phema.shared.settings import Settings
from tests.phema.service import process
from tests.phema_worker.lab import NETWORK, TIMES, Lab, tiny_config


def test_a_guide_from_another_run_at_an_early_time(local_lab: Lab) -> None:
    lab = local_lab
    lab.worker()
    main = lab.create_run()
    smaller = lab.create_run(tiny_config(network={**NETWORK, "num_blocks": 1}))
    for run in (main, smaller):
        lab.add_snapshots(run)
    with process(Settings(state_dir=lab.folder), **lab.env) as (url, _), Client(url) as client:
        [weights] = client.reconstruct(main.name, 0.08)
        [guide] = client.reconstruct(smaller.name, 0.15, TIMES[1])

        def evaluated(**options: object) -> Evaluation:
            recipe = {"num_samples": 8, "num_steps": 4, "grid": 2, "metrics": ["frechet"]}
            return client.evaluate(weights, wait=False, **{**recipe, **options})

        sigma_max = 80.0
        asked = {
            "unguided": evaluated(),
            "nowhere": evaluated(guide=guide, guidance=2.0, guidance_interval=(100.0, 200.0)),
            "always": evaluated(guide=(smaller.name, TIMES[1], 0.15), guidance=2.0),
            "everywhere": evaluated(guide=guide.id, guidance=2.0, guidance_interval=(0.0, sigma_max)),
            "somewhere": evaluated(guide=guide, guidance=2.0, guidance_interval=(0.001, 20.0)),
            "more": evaluated(guide=guide, guidance=3.0),
            "churned": evaluated(churn=2.0),
        }
        assert asked["always"].recipe["guide_id"] == guide.id
        for evaluation in asked.values():
            assert evaluation.job_id is not None
            client.wait(evaluation.job_id, poll_seconds=0.05)
        figures = {name: client.evaluation(evaluation.id).figures for name, evaluation in asked.items()}
    pictures = {name: lab.store.get(str(lab.evaluation(item.id).pictures_key)) for name, item in asked.items()}
    for found in (figures, pictures):
        assert found["unguided"] == found["nowhere"]
        assert found["always"] == found["everywhere"]
    different = ("unguided", "always", "somewhere", "more", "churned")
    assert len({pictures[name] for name in different}) == len(different)
    assert len({figures[name]["frechet"] for name in different if figures[name]}) == len(different)
