"""A short moving picture of some episodes: blue and red, the goal in green, the fake landmark in grey."""

from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from stages.physical_deception.environment import EnvironmentSettings
from stages.physical_deception.evaluate import Trace

PIXELS, PACE = 170, 90
"""Width of an episode's panel; milliseconds a step."""
COLOURS = ("#FFFFFF", "#CCCCCC", "#0072B2", "#D55E00", "#7A3300", "#009E73", "#999999")
EMPTY, EDGE, BLUE, RED, TRAPPED, GOAL, FAKE = range(len(COLOURS))


def draw(trace: Trace, settings: EnvironmentSettings, episodes: int, path: Path) -> None:
    """Write the first episodes side by side as a GIF that repeats."""
    frames = [_frame(trace, settings, episodes, step) for step in range(len(trace.blue))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=PACE, loop=0)


def _frame(trace: Trace, settings: EnvironmentSettings, episodes: int, step: int) -> Image.Image:
    image = Image.new("P", (PIXELS * episodes, PIXELS), EMPTY)
    image.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in COLOURS))
    canvas = ImageDraw.Draw(image)
    for n in range(episodes):
        canvas.rectangle((n * PIXELS, 0, (n + 1) * PIXELS - 1, PIXELS - 1), outline=EDGE)
        for mark, colour in ((trace.goal, GOAL), (trace.fake, FAKE)):
            _circle(canvas, n, mark[n], settings.reach, colour)
        red = TRAPPED if trace.trapped[step, n] else RED
        for path, colour in ((trace.red, red), (trace.blue, BLUE)):
            line = [_pixel(n, place) for place in path[: step + 1, n]]
            if len(line) > 1:
                canvas.line(line, fill=colour)
            _circle(canvas, n, path[step, n], 0.05, colour)
    return image


def _pixel(n: int, place: Tensor) -> tuple[float, float]:
    x, y = place.tolist()
    return n * PIXELS + (x + 1) / 2 * PIXELS, (1 - y) / 2 * PIXELS


def _circle(canvas: ImageDraw.ImageDraw, n: int, place: Tensor, radius: float, colour: int) -> None:
    (x, y), r = _pixel(n, place), radius / 2 * PIXELS
    canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)
