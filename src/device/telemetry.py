"""Libraries that send usage statistics by themselves are told not to, before they are imported."""

import os
import sys

# What each library reads; a variable that the user has set, to whatever value, is left as it is.
OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: connects at import, and a device id in the user's cache folder
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, which litert-torch brings
    "RAY_USAGE_STATS_ENABLED": "0",
}
# OpenVINO and NNCF send by this package, which reads no variable of its own; without it both are silent.
SENDER = "openvino_telemetry"


def switch_off() -> None:
    """Switch usage statistics off in this process and in those that it starts."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(SENDER, None)  # type: ignore[arg-type]  # None: its import fails, as if it were not there
