"""The flows: Kafka to ledger, ledger to Moodle, and the night."""
