"""The dialects this server speaks; the first owns every path that no other does."""

from __future__ import annotations

from api.dialects.apimodels.routes import DIALECT as APIMODELS
from api.dialects.base import Dialect
from api.dialects.darkroom.routes import DIALECT as DARKROOM
from api.dialects.eigen.routes import DIALECT as EIGEN
from api.dialects.modelbuffet.routes import DIALECT as MODELBUFFET
from api.dialects.modelmux.routes import DIALECT as MODELMUX
from api.dialects.mynth.routes import DIALECT as MYNTH
from api.dialects.openai.routes import DIALECT as OPENAI

DIALECTS: tuple[Dialect, ...] = (DARKROOM, APIMODELS, EIGEN, MODELBUFFET, MODELMUX, MYNTH, OPENAI)
