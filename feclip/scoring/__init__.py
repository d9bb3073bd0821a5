"""The model on prepared images: scores and token maps; one process can do it, without ray.

    pixels, valid pixels -> device, normalised -> model -> image logit, float16 token map -> statistics -> rows

Statistics are computed from the token map after it was rounded to float16, by the function that later decides anew
from the stored map (`feclip.model.map_statistics`), so both agree to the last bit. What is computed of a slice stays on
the device until its last batch is done: the host prepares the next batch meanwhile, and waits once.
"""

from feclip.scoring.bank import BankImages, build_bank
from feclip.scoring.batch_size import CPU_BATCH_SIZE, MAX_BATCH_SIZE
from feclip.scoring.scorer import Scorer, StartUp
from feclip.scoring.scores import Scores

__all__ = ["CPU_BATCH_SIZE", "MAX_BATCH_SIZE", "BankImages", "Scorer", "Scores", "StartUp", "build_bank"]
