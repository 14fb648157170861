"""`client.models`: reconstructions that were promoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from phema.client import downloads
from phema.client.resources.watched import filter_of, identity_of
from phema.client.response_models import Model, Run
from phema.client.rows import Rows
from phema.client.transport import Transport, route
from phema.errors import DownloadError, InvalidArgument


class Models:
    """Requests about models. `model` is a name (its latest version), `name:version`, an id, or a response about it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, name: str | None = None, run: str | Run | None = None, limit: int | None = None) -> Rows[Model]:
        """Versions, newest first: all, or those of a name or of a run; at most `limit`."""
        pages = self._transport.pages("/v1/models", limit, name=name, run=filter_of(run))
        return Rows(Model.read(item) for item in pages)

    def get(self, model: str | Model, /) -> Model:
        """A version with its lineage."""
        return Model.read(self._transport.get(route("models", identity_of(model))))

    def card(self, model: str | Model) -> str:
        """The card in Markdown."""
        return self._transport.text(route("models", identity_of(model), "card"))

    def config(self, model: str | Model) -> dict[str, Any]:
        """The configuration of the network, as `config.json` of the folder holds it."""
        found: dict[str, Any] = self._transport.get(route("models", identity_of(model), "config"))
        return found

    def download(
        self, model: str | Model, path: str | Path | None = None, *, on_progress: downloads.Progress | None = None
    ) -> Path:
        """Download the weights as one safetensors file, into a file or an existing folder; returns the file."""
        target = Path(path or ".")
        return downloads.fetch(
            self._transport, route("models", identity_of(model), "download"), target, on_progress=on_progress
        )

    def download_folder(
        self, model: str | Model, path: str | Path | None = None, *, on_progress: downloads.Progress | None = None
    ) -> Path:
        """Download a folder that `phema.load` takes: weights, `config.json` and the card as `README.md`.

        The default path is `name-version`. The folder may exist. The weights come last, so that a folder with weights
        is complete.
        """
        # Imported here: most commands download nothing, and start faster without.
        from phema.shared.snapshots.files.folder_layout import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE

        found = self.get(model)
        folder = Path(path or f"{found.name}-{found.version}")
        # By id: a promotion that comes in between must not mix two versions.
        config, card = self.config(found.id), self.card(found.id)
        if folder.exists() and not folder.is_dir():
            raise InvalidArgument(f"{folder} is a file; a model is downloaded into a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
            (folder / CARD_FILE).write_text(card)
        except OSError as error:
            raise DownloadError(f"cannot write into {folder}: {error.strerror or error}") from error
        self.download(found.id, folder / WEIGHTS_FILE, on_progress=on_progress)
        return folder
