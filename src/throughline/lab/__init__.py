"""The lab: a support desk's records, made from phrase banks, with everything wrong that raw records have."""
