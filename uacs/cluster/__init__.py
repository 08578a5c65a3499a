"""Everything that knows Ray.

Importing this package sets, before Ray is imported, what a Ray of our own should not do by itself: phone
home, write a token into the user's home, or listen on anything but 127.0.0.1. A cluster named by
RAY_ADDRESS keeps its settings.
"""

import os
import secrets

if "RAY_ADDRESS" not in os.environ:
    # Ray's core prints an error for every restartable actor that it is given arguments for (ray#53727)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's switch for loopback alone; named after the systems where that is its default
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # other users of this machine cannot join
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
# a thread that Serve leaves in a driver would else start a Ray of its own after ours is gone
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
# to Ray Data a part is no progress until it is done, and a 7B model may take hours over one
os.environ.setdefault("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "86400")
