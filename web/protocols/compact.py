"""How every wire format writes its JSON: without spaces, and in the client's own script."""

import json

compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
