"""The parts of `bench.gpu`: what needs a GPU to be measured or checked, each run in a process of its own."""
