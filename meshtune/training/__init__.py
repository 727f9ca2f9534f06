"""Models, trainers, validation and adapters; torch is loaded from here on."""

import logging

# Peft imports bitsandbytes where that is installed, which advises at its import to install kernels not used here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
