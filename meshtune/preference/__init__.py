"""Blind human study: pairs of answers, a server that asks people, and the statistics of their votes. No torch here."""
