"""Statistics of experiments with seeds: intervals, comparisons and their power.

- `intervals`: means with confidence intervals, differences paired by seed;
- `comparison`: arms against a baseline, corrected for several comparisons;
- `power`: the power of the paired t-test;
- `classification`: top-k accuracy, and which classes a classifier confuses;
- `formatting`: means, p-values, counts and durations as text.
"""
