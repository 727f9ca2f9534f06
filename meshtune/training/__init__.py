"""Models, trainers, validation and adapters; torch is loaded from here on."""
