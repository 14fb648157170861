"""One set of weights in the store, as plans use it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from phema.shared.snapshots.files.header import StoredDtype
from phema.shared.snapshots.profile import Profile


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot, or a vector of a basis."""

    id: str
    num_images: int
    profile: Profile
    key: str
    size: int
    sha256: str
    dtype: StoredDtype = "float32"

    @property
    def order(self) -> tuple[int, float, str]:
        """Sort key: time, then sigma_rel (profiles without sigma_rel last), then id."""
        width = self.profile.sigma_rel
        return self.num_images, 1.0 if width is None else width, self.id
