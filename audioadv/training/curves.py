"""Curves of training for TensorBoard: accuracy on train and test, clean and robust, and the loss."""

from pathlib import Path
from typing import Any, final

from audioadv.errors import BrokenInstallation, with_extra
from audioadv.training.watch import Mark


@final
class TensorBoard:
    """`train(..., tell=TensorBoard(folder))` writes what each pass came to; `tensorboard --logdir folder` draws it.

    Curves of one panel belong together: clean and robust, train and test, so that robust overfitting is seen. Raises
    BrokenInstallation where the tensorboard package is missing.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise BrokenInstallation(f"TensorBoard's curves need its package: {with_extra('curves')}") from error
        self.open: Any = lambda **options: SummaryWriter(str(folder), **options)
        self.writer: Any = None

    def __call__(self, mark: Mark) -> None:
        """Add a mark; on the first, drop what an earlier, killed process wrote from there on."""
        if self.writer is None:
            self.writer = self.open(purge_step=mark.step)
        for panel in ("train", "test"):
            for kind in ("clean", "robust"):
                if (rate := getattr(mark, f"{panel}_{kind}")) is not None:
                    self.writer.add_scalar(f"{kind}/{panel}", rate, mark.step)
        self.writer.add_scalar("loss", mark.loss, mark.step)
        self.writer.add_scalar("share of the radius", mark.share, mark.step)
        self.writer.flush()
