"""Parses a scrape with the Prometheus project's own OpenMetrics parser, which is not Specola's encoder's sibling.

Reads the text from standard input, prints one line per sample: the name, then label=value pairs in order, then the value.
Fails on anything that is no OpenMetrics.
"""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families


def main():
    text = sys.stdin.read()
    families = list(text_string_to_metric_families(text))
    if len({family.name for family in families}) != len(families):
        raise SystemExit("a family comes twice")
    for family in families:
        print(f"family\t{family.name}\t{family.type}")
        for sample in family.samples:
            labels = "\t".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            print(f"sample\t{sample.name}\t{labels}\t{sample.value}")


if __name__ == "__main__":
    main()
