"""Prefect flows: train, encode, measure, publish, and build, which is all four.

Settings that every flow needs stand here, because Prefect reads them when it is first imported.
They are defaults: what the environment says wins.
"""

import os

os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # tasks run side by side; its threads spin
