"""Scene folders of the two formats that are trained on, read as captures."""
from __future__ import annotations

from pathlib import Path

import torch

from data_processing.captures.capture import Capture, CapturedView, Lens, check_lens, make_capture
from data_processing.scenes.idr_format import is_idr_folder
from data_processing.scenes.images import image_size
from data_processing.scenes.normalization import Sphere, model_from_sphere
from data_processing.scenes.processed_format import is_processed_folder
from data_processing.scenes.scene import read_folder
from utils.geometry.cameras import intrinsics_from_projection


def has_idr_cameras(folder: Path) -> bool:
    """Return whether a folder is of the IDR format; image/ alone holds plain photographs."""
    return is_idr_folder(folder) and bool([*folder.glob("cameras*.npz")])


def capture_of_scene(folder: Path) -> Capture:
    """Read a scene folder of our own two formats as a capture that states its object space."""
    found = read_folder(folder, True)
    views = []
    for i, files in enumerate(found.files):
        size = image_size(files.image)
        k = intrinsics_from_projection(torch.from_numpy(found.projection[i]), size).numpy()
        lens = check_lens(Lens(size, (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2]), k[0, 1]),
                          f"{folder}: {files.name}")
        views.append(CapturedView(files.name, files.image, found.view[i], lens, files.mask))
    model = None
    for word in ("cache", "yaml", "pcd"):
        model = found.sources[word]() if model is None and word in found.sources else model
    if isinstance(model, Sphere):
        model = model_from_sphere(model)
    kind = "processed" if is_processed_folder(folder) else "IDR, NeuS"
    return make_capture(f"scene folder ({kind})", folder, views, model=model,
                        least_foreground=found.least_foreground)
