"""python -m vllm_operator"""

import sys

from vllm_operator.app.main import main

sys.exit(main())
