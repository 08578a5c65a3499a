"""Frames as a vision tower takes them, pixel for pixel as the originals do it: Pillow's bicubic resize.

`resize` makes a picture as large as the tower wants it (CLIP: the short side, then the middle); `pad` puts it on
a square of the mean colour first, as the originals' training scripts do but their inference does not.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, PreTrainedConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from uacs.mllm.native.preprocessors import preprocessor, unfit

Aspect = Literal["resize", "pad"]


class Pictures:
    """Frames (n, h, w, 3) uint8 to a tower's pixels (T, 3, side, side) float32.

    folder has a preprocessor_config.json; without one it is what the published towers have. A clip of fewer
    frames than `frames` is filled up with black ones, as in the originals.
    """

    def __init__(self, config: PreTrainedConfig, folder: Path | None, aspect: Aspect, frames: int):
        is_clip = isinstance(config, CLIPVisionConfig)
        # by name: where torchvision is installed the classes of the short names would resize with it
        kind = CLIPImageProcessorPil if is_clip else SiglipImageProcessorPil
        side, self.aspect, self.frames = config.image_size, aspect, frames
        square = {"height": side, "width": side}
        published = {"size": {"shortest_edge": side}, "crop_size": square} if is_clip else {"size": square}
        self.processor, self.from_folder = preprocessor(kind, folder, **published)
        try:
            made = self.pixels(np.zeros((1, 8, 12, 3), np.uint8)).shape[-2:]
        except Exception as error:  # settings that do not go together fail when they are used
            raise unfit(folder, error) from None
        if made != (side, side):
            raise unfit(folder, f"it makes pictures of {made[1]} x {made[0]}, the tower takes {side} x {side}")

    def pixels(self, frames: np.ndarray) -> torch.Tensor:
        """(T, 3, side, side): at least `self.frames` pictures, black ones after the given."""
        pictures = [Image.fromarray(frame) for frame in frames]
        if missing := self.frames - len(pictures):
            # the originals take Pillow's (width, height) for NumPy's (height, width) here; padded, it shows
            width, height = pictures[-1].size
            pictures += [Image.fromarray(np.zeros((width, height, 3), np.uint8))] * max(missing, 0)
        if self.aspect == "pad":
            pictures = [self._squared(picture) for picture in pictures]
        pixels = self.processor(pictures, return_tensors="np")["pixel_values"]
        return torch.from_numpy(np.ascontiguousarray(pixels, np.float32))

    def _squared(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        longer = max(width, height)
        colour = tuple(int(mean * 255) for mean in self.processor.image_mean)
        square = Image.new("RGB", (longer, longer), colour)
        square.paste(picture, ((longer - width) // 2, (longer - height) // 2))
        return square
