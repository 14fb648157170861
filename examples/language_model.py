"""Choose the learning-rate decay of a small language model after its training.

A transformer learns to predict the next character of Python's own help texts, which come with Python, at a constant
learning rate. While it trains, two power-function EMAs of its weights are stored in a folder. Afterwards, decays of the
learning rate and EMA lengths are reconstructed from them and compared on help texts that the training has not seen.

Needs `pip install phema`, no service and no download. Takes about half a minute:

    python examples/language_model.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from string import ascii_letters, digits, punctuation

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import phema

ALPHABET = "\n " + ascii_letters + digits + punctuation
CONTEXT, WIDTH, HEADS, LAYERS = 64, 48, 3, 2
BATCH, STEPS, WARMUP, RATE = 16, 1280, 64, 4e-3  # sequences; steps; steps; of AdamW
DECAYS = ("linear", "cosine", "1-sqrt")


class Block(nn.Module):
    """Attention to earlier characters, then two layers for each character."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, HEADS, -1)).transpose(1, 3).unbind(2)
        x = x + self.merge(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.layers(self.before_layers(x))


class LanguageModel(nn.Module):
    """Logits [N, T, characters] of the next character, from characters [N, T] int64 with T <= CONTEXT."""

    def __init__(self) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(len(ALPHABET), WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.last = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(ALPHABET)))

    def forward(self, text: Tensor) -> Tensor:
        places = torch.arange(text.shape[1], device=text.device)
        logits: Tensor = self.last(self.blocks(self.characters(text) + self.places(places)))
        return logits


def texts() -> tuple[Tensor, Tensor]:
    """Characters of the help texts for training, and of every eighth text for tests. uint8 [characters] each."""
    parts: tuple[list[str], list[str]] = ([], [])
    for number, name in enumerate(sorted(topics)):
        parts[number % 8 == 0].append(topics[name])
    codes = {character: code for code, character in enumerate(ALPHABET)}
    return tuple(torch.tensor([codes.get(c, 1) for c in "\n".join(part)], dtype=torch.uint8) for part in parts)  # type: ignore[return-value]


def sequences(text: Tensor, starts: Tensor) -> Tensor:
    """CONTEXT + 1 characters from each of `starts` on, int64 [N, CONTEXT + 1]."""
    return text[starts[:, None] + torch.arange(CONTEXT + 1)].long()


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of the next character, in nats."""
    return cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def train(folder: Path, steps: int = STEPS) -> nn.Module:
    """An ordinary training loop at constant learning rate, with four lines for phema."""
    torch.manual_seed(0)
    text, _ = texts()
    model = LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    ema = phema.PowerFunctionEMA(model, sigma_rels=[0.05, 0.10])
    with phema.SnapshotWriter(folder, config={"learning_rate": RATE}, total_images=steps * BATCH) as writer:
        for step in range(1, steps + 1):
            optimizer.param_groups[0]["lr"] = RATE * min(step / WARMUP, 1)
            optimizer.zero_grad()
            loss_of(model, sequences(text, torch.randint(len(text) - CONTEXT, [BATCH]))).backward()
            optimizer.step()
            ema.update(step * BATCH)  # phema counts sequences here, where it counts images elsewhere
            if step % (steps // 32) == 0:
                writer.save(ema)
        writer.finish()
    return model


@torch.no_grad()
def score(weights: dict[str, Tensor]) -> float:
    """Cross-entropy on the test texts, in nats per character."""
    _, text = texts()
    model = LanguageModel()
    model.load_state_dict(weights)
    starts = torch.arange(0, len(text) - CONTEXT, CONTEXT)
    losses = [loss_of(model, sequences(text, part)) * len(part) for part in starts.split(256)]
    return float(torch.stack(losses).sum() / len(starts))


def compare(folder: Path, final: nn.Module) -> dict[str, float]:
    """Cross-entropy by what was made of the run."""
    run = phema.open(folder)
    length = run.num_images // 5
    decays = [phema.Profile(kind="lr_decay", shape=shape, length_images=length) for shape in DECAYS]
    lengths = [phema.Profile.power(sigma_rel) for sigma_rel in (0.02, 0.05, 0.10, 0.20)]
    scores = {"last weights": score(final.state_dict())}
    for chosen in run.reconstruct(profiles=[*lengths, *decays], output=folder / "chosen"):
        name = f"sigma_rel {chosen.label}" if chosen.profile.sigma_rel else f"{chosen.profile.shape} decay"
        scores[name] = score(load_file(chosen.path))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help="a multiple of 32 (default %(default)s)")
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "language-model"
        scores = compare(run, train(run, steps))
    print("weights         cross-entropy")
    for name, loss in scores.items():
        print(f"{name:<16}{loss:13.4f}")


if __name__ == "__main__":
    main()
