"""The paper's measurements, figure by figure; `experiment` is what they share."""
