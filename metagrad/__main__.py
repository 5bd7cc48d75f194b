"""``python -m metagrad``, which ``torchrun -m metagrad`` starts too."""

import sys

from metagrad.experiment.cli import main

sys.exit(main())
