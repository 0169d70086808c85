"""Shapes in annotations are checked under test, and only there. Ctrl-C means the same under test wherever they run from."""

import signal

from jaxtyping import install_import_hook

# A shell has what it starts in the background ignore SIGINT, and children inherit that: tests that send it would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)

install_import_hook(
    ["audioadv.audio.convolution", "audioadv.threat.ctc", "audioadv.threat.projections", "audioadv.models.decoding"], "beartype.beartype"
)
