"""The columns of a corpus of episodes, as Arrow has them."""

import pyarrow as pa

TURN = pa.struct(
    [
        ("round", pa.int32()),
        ("speaker", pa.string()),
        ("text", pa.string()),
        ("emotion", pa.string()),
        ("emotion_prob", pa.float64()),
        ("offer", pa.float64()),
        ("act", pa.string()),
        ("offer_appended", pa.bool_()),
        ("slips", pa.list_(pa.string())),
    ]
)
SCHEMA = pa.schema(
    [
        ("episode_id", pa.string()),
        ("domain", pa.string()),
        ("scenario_id", pa.string()),
        ("split", pa.string()),
        ("context", pa.string()),
        ("focal_target", pa.float64()),
        ("counterparty_target", pa.float64()),
        ("unit", pa.string()),
        ("behaviour", pa.string()),
        ("focal_agent", pa.string()),
        ("counterparty", pa.string()),
        ("seed", pa.int64()),
        ("turns", pa.list_(TURN)),
        ("end", pa.string()),
        ("deal_value", pa.float64()),
        ("utility", pa.float64()),
        ("fault", pa.string()),
        ("schema_version", pa.int32()),
    ]
)
