"""Constants of the audio features, the labels and the options; read by every module, depends on none."""

PROGRAM_VERSION = "1.0.0"  # as in pyproject.toml

# Audio (design: log-mel of 10 s at 16 kHz)
SAMPLE_RATE = 16_000  # Hz
MAX_SECONDS = 10  # a longer utterance is cropped, a shorter one padded with zeros
N_FFT = 2_048  # samples in an analysis window: 128 ms at 16 kHz
HOP_LENGTH = 512  # samples between frames: 32 ms at 16 kHz
N_MELS = 229
F_MIN = 30.0  # Hz
F_MAX = 8_000.0  # Hz
POWER_FLOOR = 1e-10  # smallest mel power: 10 log10(1e-10) = -100 dB
STANDARDISE_EPS = 1e-5  # added to the variance, as a batch norm does


def n_frames(sr: int) -> int:
    """Frames of a 10 s spectrogram of audio at `sr` Hz: 313 at 16 kHz."""
    return MAX_SECONDS * sr // HOP_LENGTH + 1


# Text
TEXT_DIM = 768  # KoBERT's hidden size

# Encoders
LEARNT = "learnt_sessions"  # attribute of the configuration of a fine-tuned one: sessions as text, by corpus

# Labels
EMOTIONS = ("disgust", "angry", "sad", "fear", "surprise", "neutral", "happy")
EMOTION_ALIASES = {"disqust": "disgust"}  # spelt so in some annotation tables
N_EMOTIONS = len(EMOTIONS)
N_RATERS = 10
AFFECT_RANGE = (1.0, 5.0)  # arousal and valence, raters' means of integers 1 to 5

# Speaker flag of each utterance in a window: padding, or spoken by the speaker of the last utterance or by another
PADDING, SAME_SPEAKER, OTHER_SPEAKER = range(3)

# Choices of the command line that several modules share
ROLES = ("speaker", "listener")
OPTIMIZERS = ("adam", "adamw", "adagrad", "sgd")
PRECISIONS = ("auto", "fp32", "bf16")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio", "none")
