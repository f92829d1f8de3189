"""One model, one decode loop, one ledger of joules."""
