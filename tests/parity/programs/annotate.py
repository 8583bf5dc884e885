"""A program as users of Meta's package write it. The test also runs it with samserve's import."""

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor


def run(sam, image):
    """Return everything that it would print, by name."""
    sam.to("cpu")
    height, width = image.shape[:2]
    predictor = SamPredictor(sam)
    results = {"before": predictor.is_image_set}
    for name, call in {
        "no image": lambda: predictor.predict(np.array([[1, 1]]), np.array([1])),
        "no embedding": predictor.get_image_embedding,
        "format": lambda: predictor.set_image(image, "GRAY"),
    }.items():
        try:
            call()
        except Exception as error:
            results[f"error: {name}"] = f"{type(error).__name__}: {error}"

    predictor.set_image(np.ascontiguousarray(image[..., ::-1]), image_format="BGR")
    results["attributes"] = {
        "is_image_set": predictor.is_image_set,
        "original_size": predictor.original_size,
        "input_size": predictor.input_size,
        "device": predictor.device,
        "target_length": predictor.transform.target_length,
        "mask_threshold": predictor.model.mask_threshold,
        "image_format": predictor.model.image_format,
        "img_size": predictor.model.image_encoder.img_size,
    }
    results["embedding"] = predictor.get_image_embedding()
    results["features"] = predictor.features
    try:
        predictor.predict(np.array([[1, 1]]))
    except AssertionError as error:
        results["error: no labels"] = str(error)

    # Prompts of all kinds.
    coords, labels = np.array([[212.0, 192.0], [250.0, 230.0]]), np.array([1, 0])
    box = np.array([150, 40, 200, 90])
    results["click"] = predictor.predict(coords[:1], labels[:1])
    results["one mask"] = predictor.predict(coords[:1], labels[:1], multimask_output=False)
    results["box"] = predictor.predict(box=box, multimask_output=False)
    results["box of one row"] = predictor.predict(box=box[None])
    results["logits"] = predictor.predict(coords, labels, box=None, return_logits=True)
    _, scores, logits = results["click"]
    best = logits[np.argmax(scores), :, :]
    results["refined"] = predictor.predict(
        point_coords=coords,
        point_labels=labels,
        mask_input=best[None, :, :],
        multimask_output=False,
    )

    # Batches of tensors, in the model's frame.
    boxes = torch.tensor([[150, 40, 200, 90], [20, 20, 100, 90], [0, 0, width, height]])
    framed = predictor.transform.apply_boxes_torch(boxes, image.shape[:2])
    results["framed boxes"] = framed
    results["boxes"] = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=framed, multimask_output=False
    )
    points = torch.tensor([[[212.0, 192.0]], [[170.0, 65.0]]])
    framed = predictor.transform.apply_coords_torch(points, image.shape[:2])
    results["points"] = predictor.predict_torch(framed, torch.ones(2, 1).int(), return_logits=True)
    results["framed points"] = predictor.transform.apply_coords(coords, image.shape[:2])

    # The image resized beforehand.
    resized = predictor.transform.apply_image(image)
    results["resized"] = resized
    tensor = torch.as_tensor(resized).permute(2, 0, 1).contiguous()[None]
    predictor.set_torch_image(tensor, image.shape[:2])
    results["resized click"] = predictor.predict(coords[:1], labels[:1])
    predictor.reset_image()
    results["reset"] = (predictor.is_image_set, predictor.features)

    # Everything.
    options = {"points_per_batch": 8, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.8}
    generator = SamAutomaticMaskGenerator(sam, points_per_side=4, **options)
    results["everything"] = generator.generate(image)
    grids = [np.array([[0.55, 0.63], [0.44, 0.21]])]
    options |= {"points_per_side": None, "point_grids": grids}
    for mode in ("uncompressed_rle", "coco_rle"):
        results[mode] = SamAutomaticMaskGenerator(sam, output_mode=mode, **options).generate(image)
    options["min_mask_region_area"] = 20
    results["cleaned"] = SamAutomaticMaskGenerator(sam, **options).generate(image)
    for name, options in {
        "both": {"point_grids": grids},
        "mode": {"output_mode": "polygon"},
    }.items():
        try:
            SamAutomaticMaskGenerator(sam, **options)
        except AssertionError as error:
            results[f"error: {name}"] = str(error)
    return results
