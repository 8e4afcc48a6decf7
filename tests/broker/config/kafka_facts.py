"""What an Apache Kafka 4.3.1 broker answered about its configs (DescribeConfigs, IncrementalAlterConfigs)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FACTS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("kafka_4_3_1.json").read_text())
"""topic, group, client-metrics, broker: config name -> type, default, synonyms or read_only.

topic_values: config name -> texts that were accepted and refused. A default of null was not shown, because the
reference broker had no value or a static one.
"""
