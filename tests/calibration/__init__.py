"""Whether the fidelity record is right: other surveys, measured again by other libraries.

    python -m tests.calibration            # all surveys; real ones where their files are

`surveys` knows what is measured, `independent` how it is measured without the record's own code,
`__main__` prints rows, coverage and the cost of the record beside that of encoding.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest does: small_release.py
