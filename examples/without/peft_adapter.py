"""An exported adapter on its base, with peft and transformers; says what it has learned.

everseg export runs/hospital --to peft --out hospital-peft
python peft_adapter.py facebook/sam-vit-base hospital-peft merged-sam
"""

import json
import sys
from pathlib import Path

from peft import PeftModel
from transformers import SamModel

base, adapter, out = sys.argv[1:4]
about = json.loads((Path(adapter) / "domain.json").read_text())
for domain in about["domains"]:
    print(f"{domain['id']}: {domain['images']} images, {domain['metrics']}")
model = PeftModel.from_pretrained(SamModel.from_pretrained(base), adapter)
model.merge_and_unload().save_pretrained(out)
print(f"merged into {out}")
