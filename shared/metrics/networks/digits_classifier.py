"""A small classifier of the built-in digits, whose hidden units know what a digit is.

It is trained in a few seconds and always in the same way. Kernels of other processors may round differently, so the
trained weights are kept in the store: the first that are written count for all processes.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from phema.shared.datasets.digits import load_digits
from phema.shared.metrics.extractor import ExtractorIdentity
from phema.shared.metrics.extractors.digits import DIGITS, TRAINED_ON
from phema.shared.metrics.feature_extraction import FeatureExtractor, LoadRequest
from phema.shared.metrics.networks.fixed_batches import FixedBatches
from phema.shared.metrics.networks.pixels import to_uint8
from phema.shared.snapshots.errors import CorruptObject, ObjectExists, ObjectMissing
from phema.shared.snapshots.stores.interface import ObjectStore
from phema.shared.snapshots.stores.object_keys import extractor_weights_key

_RECIPE = {
    "pictures": TRAINED_ON,
    "epochs": 20,
    "batch": 100,
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "label_smoothing": 0.1,
    "seed": 1,
    "version": 1,
}
"""Everything that decides the weights; `version` stands for the code of this module."""
NUM_FEATURES = 64
_BATCH = 64
_DIGEST = "tensors_sha256"


class DigitsClassifier(nn.Module):
    """Grey 8x8 pictures in [-1, 1] -> scores of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 24, 3, padding=1)
        self.second = nn.Conv2d(24, 48, 3, padding=1)
        self.hidden = nn.Linear(48 * 4 * 4, NUM_FEATURES)
        self.scores = nn.Linear(NUM_FEATURES, 10)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def hidden_units(self, x: Tensor) -> Tensor:
        """[N, 1, 8, 8] -> [N, 64]. SiLU has no units that are 0 for every picture, so covariances have full rank."""
        x = functional.relu(self.first(x))
        x = functional.max_pool2d(functional.relu(self.second(x)), 2)
        return functional.silu(self.hidden(x.flatten(1)))

    def features(self, x: Tensor) -> Tensor:
        """[N, 1, 8, 8] -> [N, 64]: hidden units, with a mean variance of 1 over the pictures trained on."""
        return self.hidden_units(x) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, 8, 8] -> [N, 10]."""
        scores: Tensor = self.scores(self.hidden_units(x))
        return scores


def load(request: LoadRequest) -> FeatureExtractor:
    """The extractor `digits`. Its classifier comes from the store, or is trained and then stored.

    Raises SnapshotError of the store.
    """
    data = _stored(request.store) if request.store is not None else _encode(train())
    classifier = DigitsClassifier()
    classifier.load_state_dict(safetensors.torch.load(data))
    return _Digits(classifier.to(request.device).eval(), hashlib.sha256(data).hexdigest(), request.device)


def train() -> DigitsClassifier:
    """The trained classifier, on the CPU: equal bits on equal machines."""
    dataset = load_digits(held_out=DIGITS - TRAINED_ON)
    pictures = _seen(torch.from_numpy(dataset.train.batch(np.arange(TRAINED_ON))[0]))
    labels = torch.from_numpy(dataset.train.labels[:TRAINED_ON])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads would round in another order
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(int(_RECIPE["seed"]))
            return _fitted(pictures.clone(), labels.clone())
    finally:
        torch.set_num_threads(threads)


def _fitted(pictures: Tensor, labels: Tensor) -> DigitsClassifier:
    classifier = DigitsClassifier()
    epochs, batch = int(_RECIPE["epochs"]), int(_RECIPE["batch"])
    steps = epochs * (TRAINED_ON // batch)
    smoothing = float(_RECIPE["label_smoothing"])
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=float(_RECIPE["learning_rate"]), weight_decay=float(_RECIPE["weight_decay"])
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(TRAINED_ON)
        for chosen in torch.split(order, batch):
            loss = functional.cross_entropy(classifier(pictures[chosen]), labels[chosen], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        classifier.scale.copy_(classifier.hidden_units(pictures).var(dim=0).mean().rsqrt())
    return classifier


class _Digits:
    def __init__(self, classifier: DigitsClassifier, weights_sha256: str, device: torch.device | str) -> None:
        self.identity = ExtractorIdentity("digits", NUM_FEATURES, weights_sha256, uint8=True)
        self._features = FixedBatches(lambda pictures: classifier.features(_seen(pictures)), _BATCH, device)

    def __call__(self, pictures: Tensor) -> Tensor:
        return self._features(pictures)


def _seen(pictures: Tensor) -> Tensor:
    """Pictures as the classifier sees them: rounded to 8 bits, in [-1, 1]."""
    return to_uint8(pictures).float() / 127.5 - 1


def _stored(store: ObjectStore) -> bytes:
    recipe = hashlib.sha256(json.dumps(_RECIPE, sort_keys=True).encode()).hexdigest()
    key = extractor_weights_key("digits", f"{recipe}.safetensors")
    try:
        return _checked(store.get(key), key)
    except ObjectMissing:
        data = _encode(train())
    try:
        store.put(key, data)
    except ObjectExists:  # another process trained it at the same time, on a machine that rounds differently
        return _checked(store.get(key), key)
    return data


def _encode(classifier: DigitsClassifier) -> bytes:
    """A safetensors file whose metadata holds the hash of its tensors, so that damage is found."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in classifier.state_dict().items()}
    data: bytes = safetensors.torch.save(tensors, metadata={_DIGEST: _digest(tensors)})
    return data


def _checked(data: bytes, key: str) -> bytes:
    """The bytes. Raises CorruptObject unless their tensors have the hash that was stored with them."""
    try:
        length = int.from_bytes(data[:8], "little")
        recorded = json.loads(data[8 : 8 + length])["__metadata__"][_DIGEST]
        found = _digest(safetensors.torch.load(data))
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptObject(f"object {key} holds no classifier of digits: {error}") from error
    if found != recorded:
        raise CorruptObject(f"object {key} is damaged: its tensors have SHA-256 {found}, {recorded} was written")
    return data


def _digest(tensors: dict[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {list(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return content.hexdigest()
