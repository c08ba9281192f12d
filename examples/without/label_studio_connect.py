"""Connect a running `everseg serve` to a new project, with Label Studio's SDK.

everseg serve runs/clinic --label-studio http://localhost:8080
LABEL_STUDIO_API_KEY=... python label_studio_connect.py \
    http://localhost:8080 http://localhost:8008/label-studio/ scans/
"""

import base64
import os
import sys
from pathlib import Path

from label_studio_sdk import LabelStudio

studio, backend, folder = sys.argv[1:4]
client = LabelStudio(base_url=studio, api_key=os.environ["LABEL_STUDIO_API_KEY"])
project = client.projects.create(
    title="everseg",
    label_config="""
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="mask" toName="image"><Label value="object"/></BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true"><Label value="object"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true"><Label value="object"/></RectangleLabels>
</View>""",
)
tasks = [
    {"image": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()}
    for path in sorted(Path(folder).glob("*.png"))
]
client.projects.import_tasks(id=project.id, request=tasks)
client.ml.create(url=backend, project=project.id, title="everseg", is_interactive=True)
print(f"{studio}/projects/{project.id}")
