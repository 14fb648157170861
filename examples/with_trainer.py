"""Choose the EMA length of a small language model that the Trainer of Hugging Face Transformers trained.

A model of one layer learns the characters of a text that Python ships, with a constant learning rate. The callback
stores two averages. Afterwards any EMA length is reconstructed, and the best one found. No download is needed. Needs
`pip install 'phema[transformers]'`. Then:

    python examples/with_trainer.py
"""

from __future__ import annotations

import argparse
import pydoc_data.topics

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import phema
from phema.integrations.transformers import PostHocEMACallback

SIGMA_RELS = (0.02, 0.05, 0.10, 0.15, 0.20)
LENGTH, BATCH = 32, 16


def text() -> Tensor:
    """The characters of Python's help texts as tokens 0 to 127, in rows of 32."""
    characters = "".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore")
    tokens = torch.tensor(list(characters[: len(characters) // LENGTH * LENGTH]))
    return tokens.view(-1, LENGTH)


def collate(rows: list[tuple[Tensor]]) -> dict[str, Tensor]:
    tokens = torch.stack([row for (row,) in rows])
    return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/trainer", help="folder for the snapshots")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    set_seed(0)
    rows = text()
    train, test = rows[:-256], rows[-256:]
    size = {"vocab_size": 128, "n_positions": LENGTH, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    arguments = TrainingArguments(
        output_dir=f"{options.run}-trainer",
        max_steps=options.steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    averages = PostHocEMACallback(options.run, save_every=20 * BATCH, config={"lr": 1e-2, "steps": options.steps})
    trainer = Trainer(model, arguments, train_dataset=TensorDataset(train), data_collator=collate, callbacks=[averages])
    trainer.train()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            return float(model(input_ids=test, labels=test).loss)

    print(f"last weights: {loss():.4f}")
    for chosen in phema.open(options.run).reconstruct(SIGMA_RELS, output=f"{options.run}-chosen"):
        model.load_state_dict(load_file(chosen.path))
        print(f"sigma_rel {chosen.label}: {loss():.4f}")


if __name__ == "__main__":
    main()
