"""NNI's TPE as a sampler, in a child process."""
