"""Constants of the audio features, the labels and the folds; read by every module, depends on none."""

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


# Labels
EMOTIONS = ("disgust", "angry", "sad", "fear", "surprise", "neutral", "happy")
EMOTION_ALIASES = {"disqust": "disgust"}  # spelt so in some annotation tables
N_EMOTIONS = len(EMOTIONS)
N_RATERS = 10
AFFECT_RANGE = (1.0, 5.0)  # arousal and valence, raters' means of integers 1 to 5

# Of an utterance in a window: whether the speaker of the last one says it
PADDING, SAME_SPEAKER, OTHER_SPEAKER = range(3)

# What the command line offers, and the modules that do it agree on
ROLES = ("speaker", "listener")
BACKBONES = ("lstm", "gru")
MODALITIES = ("audio_text", "audio", "text")
LOSSES = ("normal", "cbloss")
AFFECT_LOSSES = ("mse", "ccc", "mse_ccc")
AUDIO_BRANCHES = ("cnn", "encoder")
SAMPLERS = ("shuffled", "weighted")
OPTIMIZERS = ("adam", "adamw", "adagrad", "sgd")
FEATURE_DTYPES = ("float16", "float32")
PRECISIONS = ("auto", "fp32", "bf16")
MONITORS = ("loss", "f1", "macro_f1", "ccc")  # figures of validation that choose an epoch

# Larger ones are typing errors
MAX_WINDOW = 1_000  # utterances
MAX_HIDDEN_SIZE = 2**14
MAX_LAYERS = 100
MAX_TEXT_DIM = 2**14
MAX_BATCH_SIZE = 2**16
MAX_EPOCHS = 10**5
MAX_WORKERS = 128
MAX_RATE = 1e3  # learning rate and weight decay
MAX_FACTOR = 1e3  # of the learning rate
MAX_MINUTES = 10**5  # between checkpoints
TEXT_DIM = 768  # KoBERT's hidden size
