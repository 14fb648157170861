"""Reconstructions of every kind of profile, and of several in one network."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phema.shared.catalog import JobKind, Run
from phema.shared.snapshots.profile import Profile
from tests.api import seed
from tests.api.http import Api, problem
from tests.fixtures.catalog import only

PATH = "/v1/runs/digits/reconstructions"
MIXED = (Profile.power(0.05), Profile(kind="exponential", half_life_images=2000), Profile(kind="raw"))
PER_TENSOR = [
    {"pattern": "dec.emb.*", "profile": {"sigma_rel": 0.2}},
    {"pattern": "dec.*", "profile": {"kind": "uniform", "window_images": 9600}},
]
LATE = (1_280, 1_281, 1_282)
WIDTHS = (0.1, 0.11, 0.12, 0.13, 0.14)
MANY = [{"pattern": "x", "profile": {"kind": "raw"}}] * 256

pytestmark = only("sqlite")


@pytest.fixture
def run(api: Api) -> Run:
    created = seed.run(api.catalog)
    seed.weights(api.catalog, api.store, created, MIXED)
    return created


def plan(api: Api, **body: Any) -> Any:
    response = api.post(PATH, {**body, "plan_only": True})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("asked", "profile", "label"),
    [
        ({"sigma_rel": 0.1}, {"kind": "power", "sigma_rel": 0.1}, "0.1"),
        ({"kind": "power", "gamma": 6.94}, {"kind": "power", "gamma": 6.94}, "0.0999723"),
        ({"kind": "exponential", "half_life_images": 3000}, {"half_life_images": 3000}, "ema"),
        ({"kind": "exponential", "half_life_images": 3000, "rampup_ratio": 0.2}, {"rampup_ratio": 0.2}, "ema"),
        # Spec 5.1: nothing ends its ramp, so that it is a power function.
        (
            {"kind": "exponential", "rampup_ratio": 0.05},
            {"kind": "power", "gamma": pytest.approx(math.log(2) / 0.05 - 1)},
            "0.0628972",
        ),
        ({"kind": "uniform", "window_images": 9600}, {"kind": "uniform", "window_images": 9600}, "mean-9600"),
        (
            {"kind": "lr_decay", "shape": "cosine", "length_images": 6400},
            {"kind": "lr_decay", "shape": "cosine", "length_images": 6400},
            "decay-cosine-6400",
        ),
        (
            {"kind": "lr_decay", "shape": "1-sqrt", "start_images": 12_800},
            {"kind": "lr_decay", "shape": "1-sqrt", "start_images": 12_800},
            "decay-1-sqrt-from-12800",
        ),
        (
            {"kind": "uniform", "last_times": 3},
            {"kind": "uniform", "times": [19_200, 22_400, 25_600]},
            "mean-of-3-times",
        ),
        (
            {"kind": "uniform", "times": [3200, 12_800]},
            {"kind": "uniform", "times": [3200, 12_800]},
            "mean-of-2-times",
        ),
        (
            {"kind": "sampled", "times": [3200, 12_800], "weights": [1, 3]},
            {"times": [3200, 12_800], "weights": [1, 3]},
            "sampled",
        ),
        (
            {"kind": "mixture", "profiles": [{"sigma_rel": 0.06}, {"sigma_rel": 0.12}], "weights": [2, -1]},
            {"kind": "mixture", "weights": [2, -1]},
            "mixture-of-2",
        ),
        ({"kind": "raw"}, {"kind": "raw"}, "raw"),
    ],
)
@pytest.mark.usefixtures("run")
def test_every_kind_is_planned_from_snapshots_of_mixed_kinds(
    api: Api, asked: dict[str, Any], profile: dict[str, Any], label: str
) -> None:
    planned = plan(api, profiles=[asked])
    # A sampled profile ends at a time of its own; all others are of the latest.
    assert planned["num_images"] == asked.get("times", [25_600])[-1]
    (output,) = planned["outputs"]
    assert output["profile"] | profile == output["profile"]
    assert (output["label"], output["sigma_rel"]) == (label, output["profile"].get("sigma_rel"))
    assert len(output["coefficients"]) == len(planned["snapshots"]) > 0
    assert sum(output["coefficients"]) == pytest.approx(1, abs=1e-3)
    assert planned["calibrated"]
    assert output["predicted_error"] >= 0
    made = api.post(PATH, {"profiles": [asked]}).json()["reconstructions"][0]
    assert (made["profile"], made["label"], made["state"]) == (output["profile"], label, "queued")
    errors = ("profile_error", "rounding_error", "predicted_error", "noise_gain", "advice")
    assert [made[name] for name in errors] == [output[name] for name in errors]
    assert api.get(f"/v1/reconstructions/{made['id']}").json()["coefficients"] == output["coefficients"]


@pytest.mark.usefixtures("run")
def test_a_plan_states_the_learning_rate_that_an_average_stands_for(api: Api) -> None:
    asked = [{"sigma_rel": 0.1}, {"kind": "lr_decay", "shape": "linear", "length_images": 5120}, {"kind": "raw"}]
    power, decay, raw = plan(api, profiles=asked)["outputs"]
    times = [round(share * 25_600) for share in (0.5, 0.75, 0.9, 0.95)]
    assert [m["num_images"] for m in power["learning_rate"]] == times
    gamma = power["profile"]["gamma"]
    found = [[m["multiplier"] for m in output["learning_rate"]] for output in (power, decay, raw)]
    assert found[0] == pytest.approx([1 - (t / 25_600) ** (gamma + 1) for t in times], rel=1e-12)
    assert found[0][2] == pytest.approx(0.57, abs=0.005)
    assert found[1] == pytest.approx([1, 1, 0.5, 0.25], abs=1e-4)
    assert found[2] == [1, 1, 1, 1]


@pytest.mark.usefixtures("run")
def test_last_times_keep_their_meaning(api: Api) -> None:
    """The row names the times, so the request in both forms is the same work."""
    made = api.post(PATH, {"profiles": [{"kind": "uniform", "last_times": 2}]}).json()["reconstructions"][0]
    assert made["profile"] == {"kind": "uniform", "times": [22_400, 25_600]}
    explicit = api.post(PATH, {"profiles": [{"kind": "uniform", "times": [22_400, 25_600]}]}).json()
    assert (explicit["job"], explicit["reconstructions"][0]["id"]) == (None, made["id"])


@pytest.mark.usefixtures("run")
def test_what_is_stored_is_copied(api: Api) -> None:
    planned = plan(api, profiles=[profile.model_dump(mode="json") for profile in MIXED])
    assert [s["profile"]["kind"] for s in planned["snapshots"]] == ["power", "exponential", "raw"] or len(
        planned["snapshots"]
    ) == 3
    for index, output in enumerate(planned["outputs"]):
        kinds = [s["profile"]["kind"] for s, c in zip(planned["snapshots"], output["coefficients"], strict=True) if c]
        assert kinds == [MIXED[index].kind]
        assert sum(output["coefficients"]) == 1


@pytest.mark.usefixtures("run")
def test_tensors_have_profiles_of_their_own(api: Api) -> None:
    (output,) = plan(api, sigma_rel=0.1, tensors=PER_TENSOR)["outputs"]
    assert (output["label"], output["sigma_rel"]) == ("0.1-per-tensor", None)
    assert [(t["pattern"], t["label"]) for t in output["tensors"]] == [("dec.emb.*", "0.2"), ("dec.*", "mean-9600")]
    # The same as asked for by itself, up to which snapshots are left unread.
    (alone,) = plan(api, sigma_rel=0.2)["outputs"]
    assert output["tensors"][0]["predicted_error"] == pytest.approx(alone["predicted_error"], rel=0.03)
    accepted = api.post(PATH, {"sigma_rel": 0.1, "tensors": PER_TENSOR}).json()["reconstructions"][0]
    found = api.get(f"/v1/reconstructions/{accepted['id']}").json()
    count = len(found["snapshots"])
    assert [len(t["coefficients"]) for t in found["tensors"]] == [count, count] == [len(found["coefficients"])] * 2
    # The same question in its other form is the same work, and in another order another.
    as_profile = {"kind": "per_tensor", "default": {"sigma_rel": 0.1}, "tensors": PER_TENSOR}
    again = api.post(PATH, {"profiles": [as_profile]}).json()
    assert (again["job"], again["reconstructions"][0]["id"]) == (None, accepted["id"])
    single = api.post(PATH, {"sigma_rel": 0.1, "tensors": PER_TENSOR[:1]}).json()
    assert single["reconstructions"][0]["id"] != accepted["id"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"sigma_rel": 0.1, "profiles": [{"kind": "raw"}]}, "", "sigma_rel and profiles both say what is wanted"),
        ({"profiles": []}, "profiles", "profiles must name 1 to 256 profiles, got 0"),
        ({"profiles": [{"kind": "raw"}, {"kind": "raw"}]}, "profiles", "profiles names raw twice"),
        ({"profiles": [{"kind": "basis", "index": 0}]}, "profiles", "profiles holds a basis at place 0"),
        ({"profiles": [{"sigma_rel": 0.5}]}, "profiles.0", "profiles.0: sigma_rel 0.5 must lie strictly between 0"),
        ({"profiles": [{"gamma": -1}]}, "profiles.0", "gamma -1 must be a finite number above 0"),
        ({"profiles": [{"gamma": 1e300}]}, "profiles.0", "profiles.0: gamma 1e+300 must be at most 1e+06"),
        ({"profiles": [{"gamma": 10**400}]}, "profiles.0", "gamma with hundreds of digits must be at most 1e+06"),
        ({"profiles": [{"gamma": "1e300", "sigma_rel": "1e-300"}]}, "profiles.0", "must be at most 1e+06"),
        ({"profiles": [{"sigma_rel": 1e-300}]}, "profiles.0", "profiles.0: sigma_rel 1e-300 must be at least 1e-06"),
        ({"sigma_rel": 1e-300}, "sigma_rel", "sigma_rel 1e-300 must be at least 1e-06"),
        ({"sigma_rel": 10**400}, "sigma_rel", "sigma_rel with hundreds of digits is impossible"),
        (
            {"profiles": [{"kind": "exponential", "rampup_ratio": 1e-300}]},
            "profiles.0",
            "rampup_ratio 1e-300 must lie between 1e-06 and ln 2",
        ),
        (
            {"profiles": [{"kind": "exponential", "half_life_images": 10**400}]},
            "profiles.0.half_life_images",
            "must be less than or equal to 9007199254740991",
        ),
        (
            {"profiles": [{"kind": "sampled", "times": [1, 2], "weights": [1e308, 1e308]}]},
            "profiles.0.weights",
            "weights must have a finite sum",
        ),
        (
            {"profiles": [{"kind": "sampled", "times": [10**400], "weights": [1]}]},
            "profiles.0.times",
            "times must be at most 9007199254740991",
        ),
        (
            {"profiles": [{"kind": "sampled", "times": list(range(1, 1026)), "weights": [1] * 1025}]},
            "profiles.0.times",
            "times has 1025 entries; a profile takes at most 1024",
        ),
        (
            {
                "profiles": [
                    {
                        "kind": "per_tensor",
                        "default": {"sigma_rel": 0.1},
                        "tensors": [{"pattern": "x", "profile": {"kind": "raw"}}] * 257,
                    }
                ]
            },
            "profiles.0.tensors",
            "tensors has 257 patterns; a per_tensor profile takes at most 256",
        ),
        (
            {"sigma_rel": 0.1, "tensors": [{"pattern": "*" * 201, "profile": {"sigma_rel": 0.2}}]},
            "tensors.0.pattern",
            "must have at most 200 characters",
        ),
        (
            {"profiles": [{"kind": "sampled", "times": [*range(1, 1000), t], "weights": [1] * 1000} for t in LATE]},
            "",
            "the profiles have 3,000 times together; a request takes at most 2,048",
        ),
        (
            {"profiles": [{"kind": "per_tensor", "default": {"sigma_rel": s}, "tensors": MANY} for s in WIDTHS]},
            "",
            "name 1,285 averages together; a request takes at most 1,024",
        ),
        ({"profiles": [{"gamma": 3, "sigma_rel": 0.1}]}, "profiles.0", "gamma 3 makes sigma_rel 0.163299, not 0.1"),
        (
            {"profiles": [{"kind": "exponential"}]},
            "profiles.0",
            "'exponential' needs half_life_images or rampup_ratio and",
        ),
        ({"profiles": [{"kind": "exponential", "rampup_ratio": 0.7}]}, "profiles.0", "rampup_ratio 0.7 must lie"),
        ({"profiles": [{"sigma_rle": 0.1}]}, "profiles.0.sigma_rle", "profiles.0.sigma_rle is not known here"),
        ({"profiles": [{"kind": "wide"}]}, "profiles.0.kind", 'profiles.0.kind "wide" must be'),
        (
            {"profiles": [{"kind": "sampled", "times": [3200], "weights": [1]}], "num_images": 6400},
            "profiles",
            "profiles: times must rise from above 0 to num_images 6400",
        ),
        (
            {"profiles": [{"kind": "uniform", "window_images": 0}]},
            "profiles.0.window_images",
            "must be greater than or equal to 1",
        ),
        (
            {"profiles": [{"kind": "uniform", "last_times": 3, "window_images": 3}]},
            "profiles.0",
            "'uniform' needs one of window_images, times and last_times, and no other kind's fields",
        ),
        (
            {"profiles": [{"kind": "uniform", "last_times": 99}]},
            "profiles",
            "last_times 99 must be at most 8, the number",
        ),
        (
            {"profiles": [{"kind": "lr_decay", "shape": "cosine"}]},
            "profiles.0",
            "'lr_decay' needs shape, and either length_images or start_images, and no other kind's fields",
        ),
        (
            {"profiles": [{"kind": "lr_decay", "shape": "step", "length_images": 100}]},
            "profiles.0.shape",
            """shape "step" must be 'linear', 'cosine', '1-sqrt' or '1-square'""",
        ),
        (
            {"profiles": [{"kind": "lr_decay", "shape": "cosine", "length_images": 30_000}]},
            "profiles",
            "length_images 30000 of the decay must be at most num_images 25600",
        ),
        (
            {"profiles": [{"kind": "lr_decay", "shape": "cosine", "start_images": 25_600}]},
            "profiles",
            "the decay starts at 25600 images; it must start at 0 or later and before num_images 25600",
        ),
        (
            {"profiles": [{"kind": "lr_decay", "shape": "1-sqrt", "length_images": 100}], "regularize": False},
            "profiles",
            "regularize false is impossible with a decay of shape 1-sqrt",
        ),
        ({"sigma_rel": [0.1, 0.2], "tensors": PER_TENSOR}, "", "tensors goes with exactly one profile"),
        (
            {"sigma_rel": 0.1, "tensors": [{"pattern": "dec.con.weight", "profile": {"sigma_rel": 0.2}}]},
            "tensors.0.pattern",
            "'dec.con.weight' matches none of the run's 3 averaged tensors, such as dec.conv.weight",
        ),
        (
            {"sigma_rel": 0.1, "tensors": [{"pattern": "freqs", "profile": {"sigma_rel": 0.2}}]},
            "tensors.0.pattern",
            "'freqs' matches none",
        ),
        (
            {"sigma_rel": 0.1, "tensors": list(reversed(PER_TENSOR))},
            "tensors.1.pattern",
            "'dec.emb.*' matches only tensors that earlier patterns decide",
        ),
        (
            {
                "profiles": [
                    {
                        "kind": "per_tensor",
                        "default": {"sigma_rel": 0.1},
                        "tensors": [{"pattern": "x", "profile": {"kind": "raw"}}],
                    }
                ]
            },
            "profiles.0.tensors.0.pattern",
            "'x' matches none",
        ),
        ({"sigma_rel": 0.1, "tolerance": 0}, "tolerance", "tolerance 0 must be greater than 0"),
        ({"profiles": [{"kind": "raw"}], "regularize": False}, "profiles", "regularize false is impossible with raw"),
    ],
)
@pytest.mark.usefixtures("run")
def test_what_is_wrong_is_refused(api: Api, body: dict[str, Any], field: str, words: str) -> None:
    document = problem(api.post(PATH, body), 422, "invalid")
    assert [error["field"] for error in document["errors"]] == [field]
    assert words in document["detail"]
    assert api.all(PATH) == []


def test_regularized_and_plain_are_different_questions(api: Api) -> None:
    run = seed.run(api.catalog)
    seed.weights(api.catalog, api.store, run, [Profile.power(0.05), Profile.power(0.10)])
    body = {"sigma_rel": 0.03}
    aware, plain = (api.post(PATH, body | {"regularize": choice}).json() for choice in (True, False))
    (first,), (second,) = aware["reconstructions"], plain["reconstructions"]
    assert (first["regularize"], second["regularize"]) == (True, False)
    assert first["id"] != second["id"]
    assert first["predicted_error"] < second["predicted_error"]
    assert first["profile_error"] > second["profile_error"]
    for question, answer in ((True, first), (False, second)):
        again = api.post(PATH, body | {"regularize": question}).json()
        assert (again["job"], again["reconstructions"][0]["id"]) == (None, answer["id"])


def test_a_tolerance_reads_less(api: Api) -> None:
    run = seed.run(api.catalog)
    seed.weights(api.catalog, api.store, run, [Profile.power(0.05), Profile.power(0.10)])
    best, enough = plan(api, sigma_rel=0.15), plan(api, sigma_rel=0.15, tolerance=0.5)
    assert enough["bytes_to_read"] < best["bytes_to_read"]
    assert best["outputs"][0]["predicted_error"] < enough["outputs"][0]["predicted_error"] <= 0.5
    coarse = api.post(PATH, {"sigma_rel": 0.15, "tolerance": 0.5}).json()["reconstructions"][0]
    fine = api.post(PATH, {"sigma_rel": 0.15}).json()["reconstructions"][0]
    assert fine["id"] != coarse["id"]
    # What is better answers the coarse question too.
    again = api.post(PATH, {"sigma_rel": 0.15, "tolerance": 0.5}).json()
    assert (again["job"], again["reconstructions"][0]["id"]) == (None, fine["id"])


@pytest.mark.usefixtures("run")
def test_a_plan_takes_as_long_as_the_store_was_seen_to_take(api: Api) -> None:
    assert plan(api, sigma_rel=0.1)["seconds"] is None
    for seconds in (1.0, 3.0):
        with api.catalog.transaction() as tx:
            tx.jobs.enqueue(JobKind.RECONSTRUCT, payload={}, content_key=f"measured:{seconds}")
        job = seed.claim(api.catalog, JobKind.RECONSTRUCT)
        with api.catalog.transaction() as tx:
            tx.leases.succeed(job.id, job.fence, {"bytes_read": 2000, "seconds": seconds})
    planned = plan(api, sigma_rel=0.1)
    assert planned["seconds"] == pytest.approx(planned["bytes_to_read"] / 1000)


@pytest.mark.usefixtures("run")
def test_a_poor_fit_says_so(api: Api) -> None:
    """Snapshots of unrelated weights: nothing as short as this can be made of them."""
    (output,) = plan(api, sigma_rel=0.011)["outputs"]
    assert output["predicted_error"] > 0.01
    assert output["advice"].startswith("0.011 is expected to miss its weights by ")
    made = api.post(PATH, {"sigma_rel": 0.011}).json()["reconstructions"][0]
    assert made["advice"] == output["advice"]


def test_the_latest_time_of_another_training_loop(api: Api) -> None:
    """What it tracks stands nowhere: it is what it stored the time before. Raw weights may come and go."""
    config: dict[str, Any] = {"model": "mine"}
    found = api.post("/v1/runs/external", {"name": "digits", "config": config}).json()
    with api.catalog.transaction() as tx:
        run = tx.runs.get(found["id"])
    both = [Profile.power(0.05), Profile.power(0.10)]
    seed.weights(api.catalog, api.store, run, [*both, Profile(kind="raw")], [3200])
    seed.weights(api.catalog, api.store, run, both, [6400])
    seed.weights(api.catalog, api.store, run, both[:1], [9600])
    assert plan(api, sigma_rel=0.1)["num_images"] == 6400
    seed.weights(api.catalog, api.store, run, both[1:], [9600])
    assert plan(api, sigma_rel=0.1)["num_images"] == 9600


@pytest.mark.usefixtures("run")
def test_a_sampled_part_of_a_per_tensor_profile_tells_the_time(api: Api) -> None:
    sampled = {"kind": "sampled", "times": [3200, 12_800], "weights": [1, 3]}
    tensors = [{"pattern": "dec.*", "profile": sampled}]
    assert plan(api, sigma_rel=0.1, tensors=tensors)["num_images"] == 12_800
    assert plan(api, profiles=[sampled], tensors=PER_TENSOR)["num_images"] == 12_800
