"""Shapes in annotations are checked under test, and only there."""

from jaxtyping import install_import_hook

install_import_hook(
    ["audioadv.audio.convolution", "audioadv.threat.ctc", "audioadv.threat.projections", "audioadv.models.decoding"], "beartype.beartype"
)
