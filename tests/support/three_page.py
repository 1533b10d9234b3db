"""A GLB file drawn by three.js, a renderer that is not ours: the copy that trimesh carries."""
from __future__ import annotations

import base64
from pathlib import Path

from trimesh import resources, util

#: Begins the part of trimesh's page that draws by trimesh's own lights; what is before it is kept.
OWN_PART = "var camera,controls,scene,renderer,tracklight;"
#: White light from everywhere, as strong as white itself, so that what is shown is the base colour;
#: a metallic material would be black. sRGB is what the glTF loader's documentation asks for.
SCRIPT = """const renderer = new THREE.WebGLRenderer({preserveDrawingBuffer: true});
renderer.outputEncoding = THREE.sRGBEncoding;
renderer.setSize(%d, %d);
document.body.appendChild(renderer.domElement);
const scene = new THREE.Scene();
scene.background = new THREE.Color(0x000000);
scene.add(new THREE.AmbientLight(0xffffff, 1));
const camera = new THREE.OrthographicCamera(-1, 1, 1, -1, 0, 10);
camera.position.z = 5;
new THREE.GLTFLoader().load("data:application/octet-stream;base64,%s", found => {
    scene.add(found.scene);
    renderer.render(scene, camera);
    window.shown = renderer.domElement.toDataURL();
}, undefined, error => { window.failed = String(error); });
</script></body></html>"""


def write_three_page(glb: Path, page: Path, size: tuple[int, int]) -> Path:
    """Write a page that draws the file from +z, x and y in [-1, 1]; `window.shown` is its PNG."""
    template, = util.decompress(resources.get_bytes("templates/viewer.zip"),
                                file_type="zip").values()
    head, found, _ = template.read().decode().partition(OWN_PART)
    assert found, "trimesh's page is another one"
    data = base64.b64encode(glb.read_bytes()).decode()
    page.write_text(head + SCRIPT % (*size, data), encoding="utf-8")
    return page
